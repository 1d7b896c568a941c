"""Who may ask an MLflow server: the administrator's name and password, in the server's own table of users."""

from registry.errors import RegistryError


def set_administrator(database: str, user: str, password: str) -> None:
    """Make `user` an administrator under `password` in the users' `database`, which is made where it is missing.

    MLflow itself sets a password at the first start only. To be called while the server does not run. Raises
    RegistryError, without the address, when the database cannot be used.
    """
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its web framework announces what it will drop
        from mlflow.exceptions import MlflowException
        from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore
        from sqlalchemy.exc import SQLAlchemyError
    try:
        store = SqlAlchemyStore()
        store.init_db(database)
        if store.has_user(user):
            store.update_user(user, password, is_admin=True)
        else:
            store.create_user(user, password, is_admin=True)
        store.engine.dispose()
    except (MlflowException, SQLAlchemyError) as error:
        raise RegistryError(f"the MLflow server's table of users cannot be written: {type(error).__name__}") from None
