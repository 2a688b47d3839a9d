"""Flower shows the tasks by their objects' names, behind a password, on loopback only."""

import json
import re

import requests

from local_servers import free_port, wait_until

SECRET = "DEADBEEFSECRET"


def test_flower_shows_object_names_to_those_with_the_password_and_no_secret(make_site):
    port = free_port()
    site = make_site(CBK_FLOWER_AUTH="dev:flower-password", CBK_FLOWER_PORT=str(port))
    site.init()
    address = f"http://127.0.0.1:{port}"
    site.celery("flower")

    def get(path, auth=("dev", "flower-password")):
        return requests.get(address + path, auth=auth, timeout=10)

    def is_up():
        try:
            return get("/healthcheck").ok
        except requests.ConnectionError:
            return False

    wait_until(is_up, 90, lambda: f"Flower up\n{site.logs()}")
    assert get("/api/tasks", auth=None).status_code == 401
    site.worker()
    site.upload("cars/id-1/thumbnail.png", b"png bytes")
    site.upload("broken.txt", b"x", link=f"http://127.0.0.1:1/x?X-Amz-Signature={SECRET}")
    site.beat()

    def tasks():
        return [task for task in get("/api/tasks").json().values() if task["name"] == "cbk.backup"]

    wait_until(lambda: {task["state"] for task in tasks()} == {"SUCCESS", "FAILURE"}, 90, lambda: f"both tasks ended: {tasks()}")
    shown = json.dumps(tasks())
    assert "s3/cars/id-1/thumbnail.png v1" in shown
    assert {task["result"] for task in tasks() if task["state"] == "SUCCESS"} == {"'stored'"}
    assert {"args", "state", "result"} <= set(re.findall(r'data-column="(\w+)"', get("/tasks").text))
    rates = get("/metrics").text
    assert re.search(r'flower_events_total\{task="cbk.backup",type="task-succeeded",worker="[^"]+"\} 1.0', rates), rates
    pages = [get(path).text for path in ("/tasks", "/workers", "/broker", *(f"/task/{task['uuid']}" for task in tasks()))]
    assert SECRET not in shown + "".join(pages)
