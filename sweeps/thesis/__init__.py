"""The thesis' own grid: its rows, our results in its tables beside the published ones, its statements, its figures."""
