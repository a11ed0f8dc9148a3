"""The home of a demo: made where nothing is, and nothing of somebody else's is written over."""

import pytest

from flows import demo
from flows.errors import UsageError
from flows.settings import Settings
from flows.steps.in_memory import connect


def test_a_home_in_which_new_worked_has_room_for_a_demo(tmp_path):
    home = Settings(home=tmp_path / "home")
    with connect(home.home):  # as `evergreen new` looks at a table
        pass
    assert any(home.home.iterdir())
    demo._claim(home, "taxi")
    assert (home.home / demo.MARK).exists()


@pytest.mark.parametrize("name", ["notes.txt", "lake/taxi/raw/2024-01-01.parquet"])
def test_a_home_with_files_of_something_else_is_left_alone(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("mine")
    with pytest.raises(UsageError, match="holds something else than a demo"):
        demo._claim(Settings(home=tmp_path), "taxi")
    assert file.read_text() == "mine"
