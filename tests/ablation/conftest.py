"""A command that takes no time, for grids in tests."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from ablation import programs

SCRIPT = """
import json, os, pathlib, signal, sys, time
import yaml
flags = yaml.safe_load(open(sys.argv[2]))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
with open(os.environ["STUB_LOG"], "a") as log:
    log.write(json.dumps(flags) + "\\n")
time.sleep(flags.get("sleep", 0))
if flags.get("word", "").startswith("SIG") and not os.path.exists(os.environ["STUB_LOG"] + ".mended"):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), getattr(signal, flags["word"]))
if flags.get("fail") and not os.path.exists(os.environ["STUB_LOG"] + ".mended"):
    sys.exit("error: it broke")
output = pathlib.Path(flags["output_dir"])
output.mkdir(parents=True, exist_ok=True)
(output / "value.json").write_text(json.dumps(flags))
"""


@dataclass
class StubConfig:
    """Flags of the stub."""

    output_dir: str
    data: str = ""
    value: float = 0.0
    word: str = ""
    seed: int = 0
    fail: bool = False
    sleep: float = 0.0


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command `stub`; returns the file to which it adds its flags whenever it runs."""
    (tmp_path / "stub_command.py").write_text(SCRIPT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("STUB_LOG", str(tmp_path / "calls.jsonl"))
    monkeypatch.setitem(programs.EXTRA, "stub", programs.Program("stub_command", StubConfig))
    return tmp_path / "calls.jsonl"
