"""The database of durable workflows: the contract in `store`, SQLite and PostgreSQL beside it, `open_store(url)`.

Above it nobody sees SQL. `store` is imported by the engine. The statements are written once, over a `dialect.Db`;
`sqlite` and `postgres` alone import their drivers.
"""
