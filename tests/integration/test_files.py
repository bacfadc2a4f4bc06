"""Shows how many files may be uploaded at once, and which files a key sees and may delete."""

from __future__ import annotations

from contextlib import ExitStack, closing

from reflexd.config import Files
from tests.daemons import Daemon, wait_for
from tests.integration.refusals import check_error
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
