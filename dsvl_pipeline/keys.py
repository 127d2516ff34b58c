"""The keys everything persistent hangs on (bottom layer: sources and table both import it)."""
