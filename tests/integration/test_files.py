"""Shows how many files may be uploaded at once, and which files a key sees and may delete."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing

import httpx2

from reflexd.config import Files
from tests.daemons import Daemon, wait_for
from tests.integration.refusals import check_error, nothing_written
from tests.integration.test_uploads import FORM, PATH, PURPOSE, arriving, form, part, upload
from tests.integration.wire import connect, read_answer


def test_one_upload_too_many_is_refused_before_it_is_read(quiet: Daemon) -> None:
    secret, most = quiet.create_key("in-parallel"), Files().uploads_per_tenant
    head = PURPOSE + part("file", b"{}", "a")[:-2]
    whole = head + b"\r\n" + form()
    headers = (FORM, f"Content-Length: {len(whole)}", "Connection: close")
    with ExitStack() as opened, quiet.http(quiet.create_key("beside-them")) as other:
        uploads = [opened.enter_context(connect(quiet, PATH, *headers, key=secret)) for _ in range(most)]
        for connection in uploads:
            connection.sendall(head)
        wait_for(lambda: len(arriving(quiet.data_dir / "files")) == most, "all of them arrive")
        with closing(connect(quiet, PATH, *headers, key=secret)) as one_more:  # of whose body nothing is sent
            answer = read_answer(one_more)
        assert "[files] uploads_per_tenant" in check_error(quiet, answer, 429, "rate_limited", None)
        assert answer.headers["retry-after"] == "1"
        other.delete(f"{PATH}/{upload(other, b'{}')['id']}").raise_for_status()
        for connection in uploads:
            connection.sendall(whole[len(head) :])
            assert read_answer(connection).status_code == 200
    with quiet.http(secret) as http:
        for file in http.get(PATH).json()["data"]:
            http.delete(f"{PATH}/{file['id']}").raise_for_status()


# --- deletions ------------------------------------------------------------------------------------------------------


def test_a_second_plain_delete_is_a_404_and_a_retried_one_is_not(quiet: Daemon) -> None:
    keys = [
        quiet.create_key(f"deleting-{name}", "--tenant", "deleting", "--scope", name) for name in ("train", "predict")
    ]
    again = {"x-stainless-retry-count": "1"}
    with quiet.http(keys[0]) as http, quiet.http(keys[1]) as reader, quiet.http(quiet.create_key("nosy")) as stranger:
        rows, requests = upload(http, b"{}")["id"], upload(http, b"{}", "batch")["id"]
        for file_id in (rows, requests):
            first = http.delete(f"{PATH}/{file_id}")
            assert first.status_code == 200
            second = http.delete(f"{PATH}/{file_id}")
            check_error(quiet, second, 404, "file_not_found", None)
            with nothing_written(quiet):
                retried = http.delete(f"{PATH}/{file_id}", headers=again)
                assert (retried.status_code, retried.content) == (200, first.content)
                unknown = http.delete(f"{PATH}/file-unknown", headers=again)
                assert unknown.content == second.content, "a retry of nothing finds nothing"
                assert stranger.delete(f"{PATH}/{file_id}", headers=again).content == second.content
        assert reader.delete(f"{PATH}/{requests}", headers=again).status_code == 200
        assert reader.delete(f"{PATH}/{rows}", headers=again).content == second.content, "it never saw that file"


# --- scopes ---------------------------------------------------------------------------------------------------------


def test_a_key_that_may_only_predict_has_all_that_a_batch_needs_and_nothing_else(quiet: Daemon) -> None:
    scopes = {name: ("--tenant", "shop", "--scope", name) for name in ("train", "predict")}
    keys = {name: quiet.create_key(f"shop-{name}", *words) for name, words in scopes.items()}
    with quiet.http(keys["train"]) as trainer, quiet.http(keys["predict"]) as reader:
        rows, mine = upload(trainer, b"{}")["id"], upload(reader, b"{}\n", "batch")["id"]
        output = upload(trainer, b"{}", "batch")["id"]
        with closing(sqlite3.connect(quiet.data_dir / "reflexd.db")) as database, database:
            database.execute("UPDATE files SET purpose = 'batch_output' WHERE id = ?", (output,))
        assert reader.get(f"{PATH}/{mine}/content").content == b"{}\n"
        assert reader.get(f"{PATH}/{output}/content").content == b"{}"
        batch = {"endpoint": "/v1/reflex/predict", "completion_window": "24h"}
        made = reader.post("/v1/batches", json={**batch, "input_file_id": mine})
        assert made.status_code == 200, made.text
        path = f"/v1/batches/{made.json()['id']}"
        wait_for(lambda: reader.get(path).json()["status"] == "failed", "nothing more is written for it")

        def listed(http: httpx2.Client, **query: str) -> list[str]:
            return [file["id"] for file in http.get(PATH, params=query).json()["data"]]

        assert (listed(trainer), listed(reader)) == ([output, mine, rows], [output, mine])
        assert (listed(trainer, purpose="fine-tune"), listed(reader, purpose="fine-tune")) == ([rows], [])
        assert listed(reader, after=output, limit="1") == [mine]
        assert listed(reader, purpose="batch") == [mine]
        with nothing_written(quiet):
            for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
                hidden, unknown = (reader.request(method, f"{PATH}/{name}{path}") for name in (rows, "file-unknown"))
                assert (hidden.status_code, hidden.content) == (404, unknown.content)
            hidden, unknown = (reader.get(PATH, params={"after": name}) for name in (rows, "file-unknown"))
            assert (hidden.status_code, hidden.content) == (400, unknown.content)
            hidden, unknown = (
                reader.post("/v1/batches", json={**batch, "input_file_id": name}) for name in (rows, "file-unknown")
            )
            assert (hidden.status_code, hidden.content) == (404, unknown.content)
            answer = reader.post(PATH, data={"purpose": "fine-tune"}, files={"file": ("a", b"{}")})
            assert "scope train" in check_error(quiet, answer, 403, "insufficient_scope", "purpose")
            answer = reader.post(PATH, files={"file": ("a", b"{}"), "purpose": (None, b"fine-tune")})
            assert "scope train" in check_error(quiet, answer, 403, "insufficient_scope", "purpose")
        for file_id in (mine, output):
            reader.delete(f"{PATH}/{file_id}").raise_for_status()
        assert listed(trainer) == [rows]
        trainer.delete(f"{PATH}/{rows}").raise_for_status()
