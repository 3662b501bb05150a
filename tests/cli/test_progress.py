"""The bar of `pack` and `push`: on a terminal only, and never on standard output."""

from __future__ import annotations

import pytest

from ephemeralml.cli.progress import progress_bar


@pytest.mark.parametrize("terminal", [False, True])
def test_a_bar_is_shown_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, terminal: bool
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1" if terminal else "0")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bar("uploading") as progress:
        progress(1_500_000, 2_000_000)
        progress(2_000_000, 2_000_000)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("uploading" in err, "2.0/2.0 MB" in err) == (terminal, terminal)
