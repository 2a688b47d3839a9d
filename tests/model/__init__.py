"""A model of the application: it alone knows which files live with which bytes, whatever its tables look like at the moment.

`meaning` is what the application means, `tables` its database, `application` what it does to both; `copies` reads the backup disk
without the kit, `laws` are what has to hold, `world` is time and the kit in one process, `story` puts these together, and `machine`
does all of it in any order.
"""
