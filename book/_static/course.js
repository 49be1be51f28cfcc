// Small repairs of the theme's pages; everything works without them.
