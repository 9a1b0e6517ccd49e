"""The bundled plugins. They enter by the same door as any other: entry points."""
