"""Where annotated samples come from. Import the modules: ``lavin.data.scenes``, ``lavin.data.folders``, ..."""
