"""The files to start from, one a chapter: what `companion check CHAPTER --stub` prints."""
