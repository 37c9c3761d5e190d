from autocompress.cli.main import main

__all__ = ["main"]
