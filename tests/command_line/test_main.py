"""The command line itself: quick help, one sentence for each fault, exit codes."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys

import pytest

from pass_recon import __version__
from pass_recon.types import BundleError, InputError
from pass_recon_cli import main as command_line

HEAVY = ("torch", "numpy", "scipy", "ismrmrd", "gadgetron", "h5py", "sigpy", "matplotlib", "open_clip")


def test_help_imports_nothing_heavy():
    script = (
        "import sys\n"
        "from pass_recon_cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', *[name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY"
    assert "examples:" in done.stdout


def test_version(capsys):
    with pytest.raises(SystemExit) as leaving:
        command_line.main(["--version"])
    assert leaving.value.code == 0
    assert capsys.readouterr().out == f"pass-recon {__version__}\n"


def test_every_command_has_help_with_an_example(capsys):
    parser = command_line.build_parser()
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    assert {"demo", "simulate", "scan", "serve", "resident", "recon"} <= set(actions[0].choices)
    for name in ("demo", "simulate", "scan", "serve", "resident", "recon"):
        with pytest.raises(SystemExit):
            command_line.main([name, "--help"])
        assert re.search(rf"examples?:\s+pass-recon {name}", capsys.readouterr().out)


def test_without_a_command_the_help_is_shown(capsys):
    assert command_line.main([]) == 2
    assert "commands:" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["scan"], ["scan", "-f", "x", "--acc", "4"], ["nonsense"], ["serve", "-p", "x"]])
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as leaving:
        command_line.main(arguments)
    assert leaving.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.fixture
def failing(monkeypatch):
    """Makes `serve` raise what the test wants."""

    def prepare(error: BaseException) -> None:
        def run(args: argparse.Namespace) -> int:
            raise error

        monkeypatch.setattr("pass_recon_cli.serve.run", run)

    return prepare


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (InputError("the scan is\n  upside down"), "pass-recon: the scan is upside down\n"),
        (BundleError("no such bundle"), "pass-recon: no such bundle\n"),
        (FileNotFoundError(2, "No such file or directory", "x.h5"), "pass-recon: No such file or directory: x.h5\n"),
        (ConnectionError("no server answers"), "pass-recon: no server answers\n"),
    ],
)
def test_a_fault_is_one_sentence_and_exit_code_1(failing, capsys, error, sentence):
    failing(error)
    assert command_line.main(["serve"]) == 1
    assert capsys.readouterr().err == sentence


def test_ctrl_c_is_exit_code_130(failing, capsys):
    failing(KeyboardInterrupt())
    assert command_line.main(["serve"]) == 130
    assert capsys.readouterr().err == "pass-recon: interrupted\n"


def test_debug_shows_the_traceback(failing):
    failing(InputError("upside down"))
    with pytest.raises(InputError, match="upside down"):
        command_line.main(["--debug", "serve"])


def test_a_bug_is_called_one_and_debug_tells_where(failing, capsys):
    failing(ZeroDivisionError("a bug"))
    assert command_line.main(["serve"]) == 1
    assert "a fault of the program (ZeroDivisionError: a bug" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        command_line.main(["--debug", "serve"])


@pytest.fixture(params=["bash", "zsh", "fish"])
def shell(request):
    if shutil.which(request.param) is None:
        pytest.skip(f"no {request.param} on PATH")
    return request.param


def test_completions_are_what_the_shell_takes(shell, tmp_path, capsys):
    with pytest.raises(SystemExit) as leaving:
        command_line.main(["--completion", shell])
    assert leaving.value.code == 0
    script = tmp_path / "completions"
    script.write_text(capsys.readouterr().out)
    subprocess.run([shell, "-n", str(script)], check=True, timeout=30)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on PATH")
@pytest.mark.parametrize(
    ("line", "expected"),
    [("pass-recon repo", "report"), ("pass-recon dicom --enh", "--enhanced"), ("pass-recon bundle v", "verify")],
)
def test_bash_completes(line, expected):
    words = line.split()
    quoted = " ".join(words)
    script = f"""eval "$({sys.executable} -m pass_recon_cli.main --completion bash)"
    function_name=$(complete -p pass-recon | sed 's/.*-F \\([^ ]*\\).*/\\1/')
    COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; COMP_LINE="{line}"; COMP_POINT={len(line)}
    $function_name pass-recon {words[-1]} {words[-2]}
    printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == [expected]


@pytest.mark.parametrize("command", ["serve", "resident"])
@pytest.mark.parametrize("options", [["--max-scans", "0"], ["--drain-seconds", "-1"], ["--drain-seconds", "nan"]])
def test_limits_that_no_server_can_keep_are_refused(command, options, capsys):
    assert command_line.main([command, "-p", "0", *options]) == 1
    assert "--max-scans must be at least 1 and --drain-seconds not negative" in capsys.readouterr().err
