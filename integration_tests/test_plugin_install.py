"""Third parties' plugins, really installed with pip into a fresh environment: a good one among
broken ones of every kind, the template, and the tutorial's."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.install
ROOT = Path(__file__).parents[1]

PYPROJECT = """
[build-system]
requires = ["setuptools>=64"]
build-backend = "setuptools.build_meta"

[project]
name = "shy-labels"
version = "0.3.1"
description = "A label scheme for people who do not shout."
dependencies = ["robustlabels", "torch"]

[project.entry-points.robustlabels]
shy = "shy_labels"

[tool.setuptools]
py-modules = ["shy_labels"]
"""

MODULE = '''
"""Labels that shrink from confident predictions; no base class of robustlabels is used."""

import torch
import robustlabels


class ShyHot:
    """(1 - s p_y) e_y + s p_y / K, with p_y the model's own confidence."""

    needs = frozenset({"logits"})

    def __init__(self, num_classes, shyness=0.2):
        if not 0 <= shyness <= 1:
            raise ValueError(f"shyness must be in [0, 1], not {shyness!r}")
        self.num_classes = self.num_outputs = num_classes
        self.shyness = shyness

    def labels(self, y, logits=None, teacher_logits=None, progress=1.0):
        with torch.no_grad():
            hot = torch.nn.functional.one_hot(y, self.num_classes).to(logits)
            own = (logits.softmax(1) * hot).sum(1, keepdim=True) * self.shyness
            return ((1 - own) * hot + own / self.num_classes).detach()


@robustlabels.hookimpl
def register_schemes(register):
    register("shy-hot", ShyHot)
'''


# Distribution: what is wrong with it, and what is reported of it on stderr when it is found.
HOOK = "import robustlabels\n\n\n@robustlabels.hookimpl\ndef register_schemes(register):\n    "
BROKEN: dict[str, tuple[str, str | None]] = {
    "broken-import": ("1 / 0\n", "skipped: ZeroDivisionError: division by zero"),
    "broken-registration": (
        f"{HOOK}register('half-done', dict)\n    raise RuntimeError('no licence')\n",
        "skipped: RuntimeError: no licence",
    ),
    "taken-name": (
        f"{HOOK}register('vs', dict)\n",
        "label scheme 'vs' is already registered by 'robustlabels'; 'taken-name' cannot replace "
        "it (reach it as 'taken-name:vs')",
    ),
    "too-new": (
        f"{HOOK}register('from-the-future', dict)\n",
        "skipped: needs robustlabels>=999, and this is robustlabels ",
    ),
    "no-scheme": (f"{HOOK}register('no-scheme', dict)\n", None),
    "broken-use": (
        f"{HOOK}register('broken-use', Fails)\n\n\nclass Fails:\n    needs = frozenset()\n\n"
        "    def __init__(self, num_classes):\n"
        "        self.num_classes = self.num_outputs = num_classes\n\n"
        "    def labels(self, y, **given):\n        return given['no such thing']\n",
        None,
    ),
}


@pytest.fixture(scope="module")
def fresh(
    make_environment: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Any]:
    """Makes environments with robustlabels in them, by ``pip install .`` of a copy."""
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "runs")
    source = shutil.copytree(ROOT, tmp_path_factory.mktemp("checkout") / "source", ignore=ignored)

    def make(name: str) -> Any:
        environment = make_environment(name)
        environment.run("python", "-m", "pip", "install", "--no-deps", str(source))
        return environment

    return make


@pytest.fixture(scope="module")
def environment(fresh: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A fresh environment with all of them in it, installed from their folders as users would."""
    folder = tmp_path_factory.mktemp("plugins")
    sources = {"shy-labels": (PYPROJECT, MODULE)}
    for name, (code, _) in BROKEN.items():
        module = name.replace("-", "_")
        text = PYPROJECT.replace("shy-labels", name).replace("shy_labels", module)
        if name == "too-new":
            text = text.replace('"robustlabels"', '"robustlabels>=999"')
        sources[name] = text, code
    for name, (pyproject, code) in sources.items():
        (folder / name).mkdir()
        (folder / name / "pyproject.toml").write_text(pyproject)
        (folder / name / f"{name.replace('-', '_')}.py").write_text(code)
    made = fresh("fresh")
    before = made.python("import robustlabels as rl; print(*rl.list_schemes())")
    assert "shy-hot" not in before.split()
    assert "vs" in before.split()
    made.run("python", "-m", "pip", "install", str(folder / "shy-labels"))
    # pip itself would refuse the one that is too new.
    broken = [str(folder / name) for name in BROKEN]
    made.run("python", "-m", "pip", "install", "--no-deps", *broken)
    return made


def test_each_broken_one_is_reported_and_the_others_are_there(environment: Any) -> None:
    """pluggy's own loader would end at the first one. A line each on stderr, no traceback; and all
    names that are left."""
    done = environment.run("robustlabels", "list", "schemes", "--json")
    lines = done.stderr.splitlines()
    for name, (_, report) in BROKEN.items():
        mine = [line for line in lines if f" of {name} 0.3.1: " in line]
        assert len(mine) == (report is not None), done.stderr
        assert report is None or report in mine[0]
    assert len(lines) == 4
    brought = {row["name"]: row["distribution"] for row in json.loads(done.stdout)}
    assert brought["vs"] == "robustlabels"
    assert brought["shy-hot"] == "shy-labels"
    assert brought["no-scheme"] == "no-scheme"
    assert not {"half-done", "from-the-future"} & set(brought)
    listed = environment.run("robustlabels", "plugins", "--json")
    status = {row["distribution"]: row["status"] for row in json.loads(listed.stdout)}
    assert status == {
        "robustlabels": "ok",
        "shy-labels": "ok",
        "broken-import": "skipped",
        "broken-registration": "skipped",
        "taken-name": "error",
        "too-new": "skipped",
        "no-scheme": "ok",
        "broken-use": "ok",
    }


QUICK = ("train", "--model", "linear", "--trainer", "standard", "--epochs", "1", "--device", "cpu")


def test_it_trains_and_is_judged_on_the_command_line(environment: Any) -> None:
    """In the midst of six that are broken."""
    environment.run("robustlabels", *QUICK, "--labels", "shy-hot", "--out", "shy-run")
    judged = environment.run(
        "robustlabels", "evaluate", "shy-run", "--attacks", "pgd", "--n", "50", "--json"
    )
    result = json.loads(judged.stdout)
    assert result["labels"]["name"] == "shy-hot"
    assert 0 <= result["robust_accuracy"] <= result["clean"]["top1"] <= 1


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        (
            "broken-use",
            "robustlabels: a plugin failed: KeyError: 'no such thing' (line 16 of broken_use.py "
            "(broken-use 0.3.1); --debug shows the traceback)",
        ),
        (
            "no-scheme",
            "robustlabels: no-scheme is not a label scheme: it lacks num_classes, num_outputs, "
            "needs, labels (registered by no-scheme 0.3.1)",
        ),
        ("taken-name:vs", "(registered by taken-name 0.3.1)"),
    ],
)
def test_one_that_fails_at_use_is_named(environment: Any, scheme: str, message: str) -> None:
    """A line, not a traceback through our engine; the exit code of a user's mistake."""
    done = environment.run(
        "robustlabels", *QUICK, "--labels", scheme, "--out", "broken-run", check=False
    )
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 5
    assert not (environment.folder / "broken-run").exists()


def test_new_plugin_and_its_tests(fresh: Callable[[str], Any]) -> None:
    """From a wheel, so that templates which are no package data would be missed; then just what
    the command says comes next."""
    environment = fresh("template")
    said = environment.run("robustlabels", "new-plugin", "my-labels").stdout
    commands = said.split("next:\n")[1]
    assert "pytest" in commands
    shell(environment, commands, environment.folder)
    listed = json.loads(environment.run("robustlabels", "plugins", "--json").stdout)
    (mine,) = [row for row in listed if row["distribution"] == "my-labels"]
    assert mine["names"] == {"schemes": ["my-labels-bootstrap"], "trainers": ["my-labels-mixed"]}
    assert mine["status"] == "ok"


def shell(environment: Any, script: str, folder: Path, fails: bool = False) -> str:
    """Run a script as a user of the environment would; gives what it printed."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "ROBUSTLABELS_PLUGINS")}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=env | {"PATH": f"{environment.folder / 'bin'}{os.pathsep}{env['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    assert (done.returncode != 0) == fails, f"{script}\n{done.stdout[-4000:]}"
    return done.stdout


BLOCK = re.compile(
    r"(?:`(?P<file>[\w./-]+)`:\n\n|<!-- (?P<note>[\w ]+) -->\n)?"
    r"```(?P<kind>\w+)\n(?P<text>.*?)```",
    re.DOTALL,
)


def test_the_tutorial_as_it_is_written(
    fresh: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """From an empty folder: every file is written, every command run, and what the page says they
    print must be in what they print. The upload alone is left out."""
    environment, folder = fresh("tutorial"), tmp_path_factory.mktemp("empty")
    printed, left_out, done = "", [], 0
    for block in BLOCK.finditer((ROOT / "docs" / "tutorial.md").read_text()):
        file, note, kind, text = block["file"], block["note"], block["kind"], block["text"]
        if file is not None:
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_text(text)
        elif kind == "text":
            for line in text.splitlines():
                assert " ".join(line.split()) in " ".join(printed.split()), printed[-4000:]
        elif note == "not run":
            left_out.append(text.strip())
        else:
            assert kind == "sh"
            printed = shell(environment, text, folder, fails=note == "fails")
            done += 1
    assert left_out == ["python -m twine upload dist/*"]
    assert done == 7
    assert sorted(p.suffix for p in (folder / "dist").iterdir()) == [".gz", ".whl"]


def test_it_is_listed_and_made(environment: Any) -> None:
    """An entry point that only works from the source tree would fool every in-process test."""
    out = environment.python(
        "import robustlabels as rl, shy_labels, sys, torch\n"
        "assert shy_labels.__file__.startswith(sys.prefix), shy_labels.__file__\n"
        "assert 'shy-hot' in rl.list_schemes()\n"
        "s = rl.make_scheme('shy-hot', 2, shyness=0.5)\n"
        "q = s.labels(torch.tensor([0]), torch.zeros(1, 2))\n"
        "print(q.tolist(), s.attack_labels, s.teacher)\n"
        "try:\n"
        "    rl.make_scheme('shy-hot', 2, shyness=3)\n"
        "except ValueError as error:\n"
        "    print(error)\n"
        "try:\n"
        "    rl.make_scheme('shy-hut', 2)\n"
        "except KeyError as error:\n"
        "    print(error)\n"
    )
    # p_y = .5, so that .25 of the mass is shared by two: by hand.
    assert out.splitlines() == [
        "[[0.875, 0.125]] hard None",
        "shy-hot: shyness must be in [0, 1], not 3",
        "unknown label scheme 'shy-hut'; did you mean 'shy-hot'?",
    ]


def test_it_trains_in_a_plain_loop(environment: Any) -> None:
    """LabelLoss needs nothing but the plugin's labels()."""
    out = environment.python(
        "import json, robustlabels as rl, torch\n"
        "torch.manual_seed(0)\n"
        "y = torch.arange(60) % 3\n"
        "x = torch.eye(3)[y] + 0.1 * torch.randn(60, 3)\n"
        "model = torch.nn.Linear(3, 3)\n"
        "loss = rl.LabelLoss(rl.make_scheme('shy-hot', 3))\n"
        "sgd = torch.optim.SGD(model.parameters(), lr=1.0)\n"
        "losses = []\n"
        "for _ in range(30):\n"
        "    sgd.zero_grad()\n"
        "    losses.append(loss(model(x), y))\n"
        "    losses[-1].backward()\n"
        "    sgd.step()\n"
        "print(json.dumps([l.item() for l in losses]))\n"
    )
    losses = json.loads(out)
    assert losses[-1] < 0.6 * losses[0]


def test_it_works_inside_vs(environment: Any) -> None:
    """By its name, like any built-in."""
    out = environment.python(
        "import robustlabels as rl, torch\n"
        "s = rl.make_scheme('vs', 2, alpha=0.5, virtual_classes=1,\n"
        "                   inner={'name': 'shy-hot', 'shyness': 0.5})\n"
        "print(s.labels(torch.tensor([0]), torch.zeros(1, 3)).tolist(), sorted(s.needs))\n"
    )
    assert out.strip() == "[[0.4375, 0.0625, 0.5]] ['logits']"


def test_it_can_be_switched_off(environment: Any) -> None:
    """ROBUSTLABELS_PLUGINS, with the names that pip knows."""
    code = (
        "import os, sys; os.environ['ROBUSTLABELS_PLUGINS'] = sys.argv[1]\n"
        "import robustlabels as rl; print('shy-hot' in rl.list_schemes())"
    )
    for selected, expected in (("", "False"), ("Shy_Labels", "True"), ("another", "False")):
        assert environment.run("python", "-c", code, selected).stdout.strip() == expected


def test_it_trains_adversarially_in_the_engine(environment: Any) -> None:
    """Promise 3: one label function, everywhere; here in fit(), by its name. At shyness 0 its label
    is one-hot, so that the weights must be one-hot's; at 1 they must differ, or the engine has
    dropped the soft label on the way to the loss."""
    out = environment.python(
        "import json, robustlabels as rl\n"
        "def train(scheme):\n"
        "    return rl.fit(model='linear', data='digits', scheme=scheme, trainer='pgd-at',\n"
        "                  eps=0.1, epochs=1, seed=0)\n"
        "runs = [train('one-hot'), train({'name': 'shy-hot', 'shyness': 0.0}), train('shy-hot'),\n"
        "        train({'name': 'shy-hot', 'shyness': 1.0})]\n"
        "def apart(a, b):\n"
        "    return max((a.last[k] - b.last[k]).abs().max().item() for k in a.last)\n"
        "print(json.dumps([apart(runs[0], r) for r in runs]))\n"
        "print(type(runs[2].scheme).__name__, runs[2].test_accuracy > 0.3)\n"
    ).splitlines()
    itself, shy_0, shy, shy_1 = json.loads(out[0])
    assert itself == 0
    assert shy_0 < 1e-6
    assert 1e-5 < shy < shy_1
    assert out[1] == "ShyHot True"


def test_the_command_line_lists_it(environment: Any) -> None:
    """`robustlabels plugins` says what pip installed, and `list` who brought what."""
    plugins = environment.run("python", "-m", "robustlabels", "plugins").stdout
    (line,) = [line for line in plugins.splitlines() if "shy-labels" in line]
    assert "0.3.1" in line
    listed = environment.run("python", "-m", "robustlabels", "list", "schemes").stdout
    (line,) = [line for line in listed.splitlines() if "shy-hot" in line]
    assert "shy-labels" in line


def test_it_can_be_uninstalled(environment: Any) -> None:
    """Last: what pip removes is gone, and robustlabels stays."""
    environment.run("python", "-m", "pip", "uninstall", "-y", "shy-labels")
    left = environment.python("import robustlabels as rl; print(*rl.list_schemes())").split()
    assert "shy-hot" not in left
    assert "vs" in left
