# Shell functions that .ci/run and .ci/versions share.

# test_units PYTHON ENVIRONMENT REQUIREMENT...: run the unit tests in a new environment with these
# requirements next to robustlabels, then remove the environment.
test_units() {
  local python=$1 environment=$2
  shift 2
  rm -rf "$environment"
  "$python" -m venv "$environment"
  "$environment/bin/pip" install --quiet '.[all,test]' "$@"
  "$environment/bin/python" -m pytest -n 2 --dist loadfile tests
  rm -rf "$environment"
}
