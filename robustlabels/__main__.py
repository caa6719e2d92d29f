"""``python -m robustlabels``."""

from robustlabels.cli import main

if __name__ == "__main__":
    main()
