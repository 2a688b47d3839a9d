"""Stories, for the tests of this folder."""

from tests.model.fixtures import kind, make_database, my_database, story, tell, time_stands_still  # noqa: F401
