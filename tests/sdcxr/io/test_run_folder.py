"""A run folder is nobody else's."""

import pytest

from sdcxr.io.run_folder import CONTENT, RUN_STATE, check_own_folder
from sdcxr.runtime.errors import UserError


@pytest.mark.parametrize("name", CONTENT)
def test_what_a_run_would_replace_is_refused_where_no_run_accounts_for_it(tmp_path, name):
    check_own_folder(tmp_path / "missing")
    (tmp_path / "notes.txt").write_text("mine")  # such as the log of a scheduler
    check_own_folder(tmp_path)
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"holds {name}, which no run.json accounts for"):
        check_own_folder(tmp_path)
    (tmp_path / RUN_STATE).write_text("{}")
    check_own_folder(tmp_path)
