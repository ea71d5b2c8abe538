"""The database of durable workflows: the contract in `store`, SQLite beside it, `open_store(url)` in `open`.

Above it nobody sees SQL. `store` is imported by the engine; `sqlite` alone imports the driver.
"""
