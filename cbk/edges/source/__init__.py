"""The application's database: its two tables, read and never written (DESIGN section 2.1).

`reader` asks the questions, `engine` opens each kind of database so that it cannot be written, `tables` and `columns` find out
what there is, `ids` and `sqlite_ids` turn their Ids into text and back, `file_ids` tells which Id the delete log means,
`fingerprint` tells that a table has changed, `doubts` what of it is hidden, `errors` puts what drivers raise into our words.
"""

from cbk.edges.source.doubts import SourceDoubt
from cbk.edges.source.fingerprint import Fingerprint
from cbk.edges.source.reader import Source, SourceReport

__all__ = ["Fingerprint", "Source", "SourceDoubt", "SourceReport"]
