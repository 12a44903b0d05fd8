"""Layer graph -> NIR, fixed point, Lava bundle."""
