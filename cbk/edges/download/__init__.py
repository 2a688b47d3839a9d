"""The download edge: what untrusted signed links point at, fetched once, as a stream of bytes.

`connector` opens sockets to judged addresses, `http_connections` speaks HTTP over them by libcurl, `fetch` is the conduct of one
download. What an answer means is decided in `cbk.rules.backup.http_responses`, where a link may lead in `cbk.rules.backup.links`.
"""

from cbk.edges.download.fetch import Downloader, Sink

__all__ = ["Downloader", "Sink"]
