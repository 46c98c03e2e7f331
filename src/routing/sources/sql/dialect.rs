//! Values of each database as text. Only the types are read that a row can need: what a
//! binary form of another one would look like as text, nobody can say.

use sqlx::{Database, MySql, Postgres, Row, Sqlite, TypeInfo, ValueRef};

/// A database whose values can be read.
pub(super) trait Dialect: Database {
    /// A value as text, `None` for NULL; the name of its type where that cannot be read.
    fn text(row: &Self::Row, at: usize) -> Result<Option<String>, String>;
}

impl Dialect for Postgres {
    fn text(row: &Self::Row, at: usize) -> Result<Option<String>, String> {
        let Some(kind) = kind::<Self>(row, at)? else { return Ok(None) };
        let read = match kind.as_str() {
            "TEXT" | "VARCHAR" | "CHAR" | "NAME" | "CITEXT" | "UNKNOWN" => {
                row.try_get_unchecked::<String, _>(at)
            }
            "INT2" => row.try_get::<i16, _>(at).map(|number| number.to_string()),
            "INT4" => row.try_get::<i32, _>(at).map(|number| number.to_string()),
            "INT8" => row.try_get::<i64, _>(at).map(|number| number.to_string()),
            "BOOL" => row.try_get::<bool, _>(at).map(|flag| flag.to_string()),
            _ => return Err(kind),
        };
        read.map(Some).map_err(|_| kind)
    }
}

impl Dialect for MySql {
    fn text(row: &Self::Row, at: usize) -> Result<Option<String>, String> {
        let Some(kind) = kind::<Self>(row, at)? else { return Ok(None) };
        let read = match kind.as_str() {
            "VARCHAR" | "CHAR" | "TEXT" | "TINYTEXT" | "MEDIUMTEXT" | "LONGTEXT" | "ENUM"
            | "VARBINARY" | "BINARY" | "BLOB" | "TINYBLOB" => {
                row.try_get_unchecked::<String, _>(at)
            }
            "BOOLEAN" | "TINYINT" | "SMALLINT" | "MEDIUMINT" | "INT" | "BIGINT" => {
                row.try_get_unchecked::<i64, _>(at).map(|number| number.to_string())
            }
            "TINYINT UNSIGNED" | "SMALLINT UNSIGNED" | "MEDIUMINT UNSIGNED" | "INT UNSIGNED"
            | "BIGINT UNSIGNED" => {
                row.try_get_unchecked::<u64, _>(at).map(|number| number.to_string())
            }
            _ => return Err(kind),
        };
        read.map(Some).map_err(|_| kind)
    }
}

impl Dialect for Sqlite {
    fn text(row: &Self::Row, at: usize) -> Result<Option<String>, String> {
        let Some(kind) = kind::<Self>(row, at)? else { return Ok(None) };
        let read = match kind.as_str() {
            "TEXT" => row.try_get_unchecked::<String, _>(at),
            "INTEGER" | "BOOLEAN" => {
                row.try_get_unchecked::<i64, _>(at).map(|number| number.to_string())
            }
            _ => return Err(kind),
        };
        read.map(Some).map_err(|_| kind)
    }
}

/// The name of a value's type in upper case, `None` for NULL.
fn kind<D: Database>(row: &D::Row, at: usize) -> Result<Option<String>, String>
where
    usize: sqlx::ColumnIndex<D::Row>,
{
    let value = row.try_get_raw(at).map_err(|_| "unknown".to_owned())?;
    if value.is_null() {
        return Ok(None);
    }
    Ok(Some(value.type_info().name().to_ascii_uppercase()))
}
