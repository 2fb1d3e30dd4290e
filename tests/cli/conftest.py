"""The command, run in the tests' own process."""

import signal

import pytest

from benchmarl_ssd.cli import main


@pytest.fixture
def run(capsys):
    """Run the command in this process; gives exit code, output, and what stands on stderr."""

    def run_command(*arguments):
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as caught:
                main([str(argument) for argument in arguments])
        finally:
            signal.signal(signal.SIGTERM, handler)
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return run_command
