"""Decides how tests install plugins: into a folder that PYTHONPATH names, so that the environment stays as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.daemons import ROOT

EXAMPLE = ROOT / "plugins" / "example"


def run_python(*words: str | Path) -> str:
    """Run this Python with these arguments and return what it printed; fail when it fails."""
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, timeout=120, check=False, cwd="/"
    )
    assert done.returncode == 0, f"{words}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def install_example(folder: Path) -> Path:
    """Build the wheel of plugins/example and install it into a new folder, both without any network."""
    run_python("-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist", EXAMPLE)
    (wheel,) = (folder / "dist").iterdir()
    site = folder / "site"
    run_python("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel)
    return site


def write_plugin(site: Path, name: str, source: str) -> None:
    """Lay an installed distribution `stranger-NAME 1.0` with one plugin into a folder, as pip would."""
    module = f"stranger_{name}"
    (site / f"{module}.py").write_text(source)
    record = site / f"{module}-1.0.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: stranger-{name}\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text(f"[reflexd]\n{name} = {module}\n")
