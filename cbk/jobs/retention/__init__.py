"""What goes and what stays: deletes, replaced copies, holds, and the clock that graces run by."""
