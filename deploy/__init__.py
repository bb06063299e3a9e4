"""Composition: the `mdrec` command, the nightly run, the embedded Redis, images and units. The only room that knows all."""
