"""Makes volatility3 know the layers of xsave-volatility: it imports what is in this folder."""

import xsave_volatility  # noqa: F401
