"""A server that speaks S3's protocol, on loopback."""

from __future__ import annotations

import json

import s3fs
from moto.server import ThreadedMotoServer


class ObjectStore:
    """Start it with `with`; `settings` are the environment of processes that store there."""

    def __enter__(self):
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        _, port = self._server.get_host_and_port()
        self.options = {
            "key": "testing",
            "secret": "testing",
            "client_kwargs": {"endpoint_url": f"http://127.0.0.1:{port}"},
            "config_kwargs": {"retries": {"max_attempts": 2}, "connect_timeout": 2, "read_timeout": 10},
        }
        self.url = "s3://artifacts/grape"
        self.files = s3fs.S3FileSystem(**self.options, skip_instance_cache=True, use_listings_cache=False)
        if not self.files.exists("artifacts"):  # servers in one process share what they keep
            self.files.mkdir("artifacts")
        return self

    def __exit__(self, *_):
        if self.files.exists("artifacts/grape"):
            self.files.rm("artifacts/grape", recursive=True)
        self._server.stop()

    @property
    def settings(self):
        """The environment of a process that stores here."""
        return {"GRAPE_STORAGE__URL": self.url, "GRAPE_STORAGE__OPTIONS": json.dumps(self.options)}
