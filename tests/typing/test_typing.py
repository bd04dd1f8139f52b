"""The package's types as its users see them: right code passes a strict check, wrong code does not."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def test_users_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = pytest.importorskip("mypy.api", reason="mypy is not installed: pip install -e '.[dev]'")
    monkeypatch.chdir(HERE.parents[1])
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = True\ndisallow_untyped_decorators = False\nwarn_unused_ignores = True\n"
        "plugins = pydantic.mypy\n"
        "[mypy-celery.*,kombu.*]\nignore_missing_imports = True\nfollow_imports = skip\n"
    )
    out, err, code = api.run(
        ["--config-file", str(tmp_path / "mypy.ini"), "--cache-dir", str(tmp_path / "cache"),
         str(HERE / "users_view.py")]
    )  # fmt: skip
    assert code == 0, out + err
