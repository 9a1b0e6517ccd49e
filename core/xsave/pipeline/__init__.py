"""The one pipeline: a source yields events, a destination takes them."""
