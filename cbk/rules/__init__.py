"""Pure decisions with their reasons: no clock, disk, environment or network; `now` is an argument."""
