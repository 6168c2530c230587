"""Finding a session's raw samples with the fewest possible questions. Pure.

The server chooses the resolution of an answer from the length of the interval asked for (``lengths``). A
``Scan`` is one walk through the time of one session that was not read yet, oldest first. ``next_ask`` says
which half-open stretch to ask for; ``after`` says what its answer proves and returns the scan as it goes on.

* **Raw or not.** A stretch counts as read only when its answer is proven raw (``grain_of``), or proven empty.
  Everything else is a hint about where the samples are.
* **Pages.** Rows are asked for in the order of time. A page that was cut is a whole answer to a shorter
  question: everything before its last instant. The next question begins there, so that no offset into a
  list that may grow is needed. What the cut answer said is still to come is checked (``Promise``): a server
  that ignores the order would be found out by it.
* **Empty stretches.** A coarse answer costs one request and says where no samples are. It is asked for when,
  going by the stretch walked so far, it saves more than it costs (``probing``).
"""

from sync.sources.bace.resolution.answers import after
from sync.sources.bace.resolution.asking import next_ask, too_much
from sync.sources.bace.resolution.scan import Answer, Ask, Scan, Step, begin

__all__ = ["Answer", "Ask", "Scan", "Step", "after", "begin", "next_ask", "too_much"]
