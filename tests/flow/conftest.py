"""The distributed service, for the tests that need one."""

from collections.abc import Iterator

import pytest

from tests.flow.stack import Stack, engines_below
from tests.processes import own_world
from tests.servers import PostgresServer, RedisServer, S3Server


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
    postgresql_server: PostgresServer,
    redis_server: RedisServer,
    s3_server: S3Server,
) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    with own_world(), Stack(folder, postgresql_server, redis_server, s3_server) as stack:
        yield stack
    assert engines_below(folder) == [], "nothing is left at work"
