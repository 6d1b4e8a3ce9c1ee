import signal
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from attrib_plugin.app.web import server

ENDS = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Blocks:
    is_closed = False

    def close(self, *, verbose):
        self.is_closed = True


@pytest.mark.parametrize("name", ENDS)
def test_however_the_demo_ends_no_upload_is_left(monkeypatch, name):
    class Interrupted(server.Event):
        def wait(self, timeout=None):
            signal.raise_signal(getattr(signal, name))
            return self.is_set()

    # What is started with nohup, or in the background of a shell, ignores some of them.
    usual = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    outside = signal.signal(getattr(signal, name), usual)
    monkeypatch.setattr(server, "Event", Interrupted)
    folder, blocks, before = TemporaryDirectory(), Blocks(), signal.getsignal(getattr(signal, name))
    (Path(folder.name) / "upload.png").write_bytes(b"private")

    server.Server("http://127.0.0.1:1", blocks, folder).wait()
    after = signal.signal(getattr(signal, name), outside)

    assert blocks.is_closed
    assert not Path(folder.name).exists()
    assert after is before


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://localhost:80"),
        ("::1", "http://[::1]:80"),
        ("::", "http://localhost:80"),
    ],
)
def test_an_address_can_be_typed_into_a_browser(host, address):
    assert server._address(host, 80) == address
