"""The stages of a run, each the same shape: NAME, perform(run, ctx) -> Result. They meet on disk, never in code."""
