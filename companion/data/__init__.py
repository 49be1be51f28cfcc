"""Data sets as LightningDataModules: bundled, from the system, or fetched and checked."""
