"""One reliable, ordered conversation with another end, over channels that may break.

Frames (:mod:`.frame`) travel on channels, numbered in each direction. A sender keeps what
was not acknowledged (:mod:`.outgoing`); a receiver puts frames in order and gives credit for
what was used (:mod:`.incoming`). When a channel breaks, a new one is made (:mod:`.opening`),
both ends say what they have, and only the rest is sent again. So what lies above sees
everything once and in order, or :class:`xsave.LinkLostError`; never half of it.

:func:`.connect.connect` and :func:`.server.serve` make a :class:`.link.Link`.
"""
