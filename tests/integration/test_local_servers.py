"""The servers that everything else is tried on must be real, ours alone, and gone when we are."""

import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
import redis

import local_servers
from local_servers import Valkey, free_port, wait_until


def ask(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read()


def refusal(url):
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(url)
    refused.value.close()
    return refused.value.code


def presigned(s3, key):
    return s3.client().generate_presigned_url("get_object", Params={"Bucket": "crash-test", "Key": key}, ExpiresIn=60)


def listening_addresses(pid):
    return {
        connection.laddr.ip for connection in psutil.Process(pid).net_connections("inet") if connection.status == psutil.CONN_LISTEN
    }


def script_with_a_server(folder):
    script = "import local_servers, sys; print(local_servers.Valkey(sys.argv[1]).start().pid, flush=True); sys.stdin.read()"
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        env={"PYTHONPATH": str(Path(local_servers.__file__).parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture
def own_valkey(tmp_path):
    with Valkey(tmp_path) as server:
        yield server


def test_free_port_is_never_given_twice():
    ports = [free_port() for _ in range(50)]

    assert len(set(ports)) == 50


def test_free_port_is_not_one_in_use(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setattr(local_servers, "PORTS", range(port, port + 1))

        with pytest.raises(OSError, match="no free port"):
            free_port()


def test_wait_until_returns_what_the_condition_found():
    answers = iter([None, 0, "there"])

    assert wait_until(lambda: next(answers), 5, "an answer") == "there"


def test_wait_until_says_what_it_waited_for():
    with pytest.raises(TimeoutError, match=r"waited 0 s for the impossible, seen 3"):
        wait_until(lambda: False, 0, lambda: f"the impossible, seen {1 + 2}")


def test_start_of_a_server_that_fails_shows_its_log(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        with pytest.raises(local_servers.ServerFailed, match="Address already in use"):
            Valkey(tmp_path, port=taken.getsockname()[1]).start()


def test_valkey_killed_and_started_again_keeps_its_port_and_forgets_its_data(own_valkey):
    client = redis.Redis.from_url(own_valkey.url)
    client.set("key", "value")
    client.close()
    url = own_valkey.url

    own_valkey.kill()
    own_valkey.start()

    with redis.Redis.from_url(url) as again:
        assert again.get("key") is None


def test_valkey_that_is_persistent_remembers_over_a_restart(tmp_path):
    with Valkey(tmp_path, persistent=True) as server, redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
        server.restart()

        assert client.get("key") == b"value"


def test_valkey_refuses_to_evict(own_valkey):
    with redis.Redis.from_url(own_valkey.url) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_server_outlives_the_thread_that_started_it(tmp_path):
    server = Valkey(tmp_path)
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()

    with server, redis.Redis.from_url(server.url) as client:
        assert client.ping()


def test_server_ends_with_a_script_that_is_killed(tmp_path):
    with script_with_a_server(tmp_path) as script:
        server = psutil.Process(int(script.stdout.readline()))
        script.kill()

    wait_until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, 10, "the server to end")


def test_server_ends_with_a_script_that_is_interrupted(tmp_path):
    with script_with_a_server(tmp_path) as script:
        server_pid = int(script.stdout.readline())
        script.send_signal(signal.SIGINT)

    assert not psutil.pid_exists(server_pid)


def test_postgres_comes_back_from_a_crash_with_its_data(postgres, pg_database):
    postgres.execute("CREATE TABLE remembered AS SELECT 42 AS answer", pg_database)

    postgres.restart(immediate=True)

    assert postgres.execute("SELECT answer FROM remembered", pg_database) == [(42,)]


def test_postgres_does_not_run_as_root(postgres):
    assert psutil.Process(postgres.pid).uids().effective != 0


def test_servers_listen_on_loopback_only(valkey, postgres, s3):
    assert [listening_addresses(server.pid) for server in (valkey, postgres, s3)] == [{"127.0.0.1"}] * 3


def test_s3_serves_a_signed_link_and_refuses_the_bare_address(s3):
    s3.create_bucket("signed")
    client = s3.client()
    client.put_object(Bucket="signed", Key="id 1/ü.png", Body=b"bytes", ContentEncoding="gzip")
    link = client.generate_presigned_url("get_object", Params={"Bucket": "signed", "Key": "id 1/ü.png"}, ExpiresIn=60)

    assert ask(link) == b"bytes"
    assert refusal(link.partition("?")[0]) == 403
    assert refusal(link[:-1] + ("0" if link[-1] != "0" else "1")) == 403


def test_s3_killed_and_started_again_keeps_its_objects(s3):
    s3.create_bucket("crash-test")
    s3.client().put_object(Bucket="crash-test", Key="kept.bin", Body=bytes(100_000))

    s3.kill()
    s3.start()

    assert ask(presigned(s3, "kept.bin")) == bytes(100_000)


def test_s3_leaves_no_sockets_behind(tmp_path):
    with local_servers.S3(tmp_path) as server:
        ports = list(server._ports.values())

    assert [left for port in ports for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")] == []
