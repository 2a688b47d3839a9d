"""A burnt account is refilled by one command: the real `cbk restore`, a real S3 server, and rclone to say what came of it."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import uuid
from collections import Counter
from pathlib import Path

import pytest

from local_servers import wait_until
from tests.in_process_site import InProcessSite

RCLONE = Path(sysconfig.get_path("scripts")) / "rclone"
MIB = 1024 * 1024


def corpus():
    """Some hundreds of files, by key: of every kind that an application may have."""
    files = {
        "empty": b"",
        "noextension": b"no extension",
        "cars/id-1/thumbnail.png": b"png",
        "cars/id-1/thumbnail.jpg": b"jpg, whose copy cannot lie where that of the png does",
        "cars/id-1/THUMBNAIL.png": b"png in capitals",
        "Ü/Straße/名前 (1).txt": "Grüße".encode(),
        "Ü/😀/x+y & z%20='1'.txt": b"signs that URLs use",
        "large/parts.bin": os.urandom(9 * MIB),
        "large/one-request.bin": os.urandom(8 * MIB),
        "deep/" + "/".join("abcdefghij") + "/file.css": b"deep",
    }
    return files | {
        f"many/{number % 7}/{number:03}.json": json.dumps({"number": number}).encode() * number for number in range(300)
    }


@pytest.fixture(scope="module")
def person(s3, tmp_path_factory):
    """The environment of somebody who restores."""
    none = str(tmp_path_factory.mktemp("aws") / "none")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CBK_", "RCLONE_"))}
    return plain | {
        "AWS_CONFIG_FILE": none,
        "AWS_SHARED_CREDENTIALS_FILE": none,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": s3.endpoint,
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "NO_PROXY": "127.0.0.1",
    }


@pytest.fixture(scope="module")
def files():
    return corpus()


@pytest.fixture(scope="module")
def originals(files, tmp_path_factory):
    """The same files in a folder."""
    folder = tmp_path_factory.mktemp("originals")
    for key, content in files.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def site(files, tmp_path_factory):
    """A kit that has a copy of each file, whose origin is gone."""
    from tests.origin import Origin  # noqa: PLC0415 - only while the copies are made

    with Origin() as origin:
        site = InProcessSite(tmp_path_factory.mktemp("site"), origin)
        for key, content in files.items():
            row_id = site.upload(key, content)
            if key.endswith(".css"):
                site.change(row_id, ContentType="text/x-from-the-row")
        site.work()
    assert Counter(site.states().values()) == {"stored": len(files)}
    yield site
    site.close()


@pytest.fixture
def place(s3):
    """An empty bucket."""
    name = f"new-{uuid.uuid4().hex}"
    s3.create_bucket(name)
    return name


@pytest.fixture
def start(site, person):
    """A function that starts the real command; what is still at work ends with the test."""
    running = []

    def start(*arguments, **environment):
        command = [sys.executable, "-m", "cbk.cli", "restore", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        running.append(subprocess.Popen(command, env=person | site.environment | environment, text=True, cwd=site.folder, **pipes))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def restore(start):
    """A function that runs the real command to its end."""

    def restore(*arguments, expect=0, **environment):
        process = start(*arguments, **environment)
        out, error = process.communicate(timeout=120)
        assert process.returncode == expect, f"{process.returncode}\n{out}\n{error}"
        return out, error

    return restore


def rclone(s3, command, *arguments):
    """Run rclone with the server as `s3:`."""
    remote = {
        "TYPE": "s3",
        "PROVIDER": "SeaweedFS",
        "ENDPOINT": s3.endpoint,
        "ACCESS_KEY_ID": s3.access_key,
        "SECRET_ACCESS_KEY": s3.secret_key,
    }
    env = {"PATH": os.defpath, "RCLONE_CONFIG": "/dev/null"} | {f"RCLONE_CONFIG_S3_{name}": value for name, value in remote.items()}
    return subprocess.run([RCLONE, command, *arguments], env=env, capture_output=True, text=True, timeout=120, check=False)


def require_equal(s3, originals, where):
    """rclone reads both sides to the last byte."""
    done = rclone(s3, "check", "--download", str(originals), f"s3:{where}")
    assert done.returncode == 0, done.stderr
    assert "0 differences found" in done.stderr


def summary(out):
    return json.loads(out.splitlines()[-1])


def test_burnt_account_is_refilled_by_one_command(restore, s3, site, files, originals, place):
    out, error = restore("--to", f"s3://{place}/back", "--jobs", "8", "--json")
    assert summary(out)["restored"] == len(files)
    require_equal(s3, originals, f"{place}/back")
    client = s3.client()
    types = {key: client.head_object(Bucket=place, Key=f"back/{key}")["ContentType"] for key in files if "many" not in key}
    assert types["cars/id-1/thumbnail.jpg"] == "image/jpeg"
    assert types["noextension"] == "application/octet-stream"
    assert [kind for key, kind in types.items() if key.endswith(".css")] == ["text/x-from-the-row"]

    kept = [path.read_bytes() for path in site.folder.rglob("*") if path.is_file() and path.suffix != ".gzip"]
    secrets = [s3.access_key, s3.secret_key]
    assert not any(secret in out + error or any(secret.encode() in content for content in kept) for secret in secrets)

    changed = last_changes(client, place)
    out, _ = restore("--to", f"s3://{place}/back", "--json")
    assert {name: summary(out)[name] for name in ("restored", "present")} == {"restored": 0, "present": len(files)}
    assert last_changes(client, place) == changed


def last_changes(client, bucket):
    return {each["Key"]: each["LastModified"] for each in client.list_objects_v2(Bucket=bucket)["Contents"]}


def test_killed_restore_is_finished_by_the_next(start, restore, s3, files, originals, place):
    process = start("--to", f"s3://{place}", "--jobs", "1")
    client = s3.client()
    wait_until(lambda: client.list_objects_v2(Bucket=place).get("KeyCount", 0) > 10, 60, "the first objects")
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = last_changes(client, place)
    assert len(there) < len(files)
    out, _ = restore("--to", f"s3://{place}", "--json")
    assert summary(out)["present"] == len(there)
    require_equal(s3, originals, place)


def test_other_object_is_kept_and_the_rest_restored(restore, s3, files, place):
    client = s3.client()
    client.put_object(Bucket=place, Key="many/1/001.json", Body=b"the application's own")
    arguments = ("--to", f"s3://{place}", "--prefix", "many/1/", "--json")
    out, error = restore(*arguments, expect=3)
    assert failures(out) == ["many/1/001.json"]
    assert "--overwrite" in error
    assert client.get_object(Bucket=place, Key="many/1/001.json")["Body"].read() == b"the application's own"
    out, _ = restore(*arguments, "--overwrite")
    assert summary(out)["restored"] == 1
    assert client.get_object(Bucket=place, Key="many/1/001.json")["Body"].read() == files["many/1/001.json"]


def failures(out):
    return [line["key"] for line in map(json.loads, out.splitlines()) if line.get("outcome") == "failed"]


def test_damaged_copy_leaves_no_object(restore, s3, site, place):
    copy = site.root / next(location for location in site.copies() if "/many/3/" in location)
    good = copy.read_bytes()
    copy.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
    try:
        out, _ = restore("--to", f"s3://{place}", "--prefix", "many/3/", "--json", expect=3)
    finally:
        copy.write_bytes(good)
    (failed,) = failures(out)
    sent = list(last_changes(s3.client(), place))
    assert failed not in sent
    assert len(sent) == summary(out)["restored"]


def test_dry_run_sends_nothing(restore, s3, files, place):
    out, _ = restore("--to", f"s3://{place}", "--dry-run", "--json")
    assert summary(out)["planned"] == len(files)
    assert s3.client().list_objects_v2(Bucket=place)["KeyCount"] == 0


def test_what_is_wrong_with_the_account_is_said_once_with_a_hint(restore, place):
    out, error = restore("--to", f"s3://{place}", expect=1, AWS_SECRET_ACCESS_KEY="notthesecretkey")
    assert "the secret key is wrong" in error
    assert error.count("HINT:") == 1
    assert not any(secret in out + error for secret in ("notthesecretkey", "Traceback", "://127"))
