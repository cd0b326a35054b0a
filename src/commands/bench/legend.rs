//! A benchmark's table, followed by what each of its columns means.

use comfy_table::Table;

use crate::commands::error::CliError;
use crate::commands::output::{print_line, print_table, table};

/// A heading and, in one line, its meaning.
pub(super) type Column = (&'static str, &'static str);

/// Rows under headings that explain themselves.
pub(super) struct BenchTable {
    columns: Vec<Column>,
    rows: Table,
}

impl BenchTable {
    pub fn new(columns: &[Column]) -> Self {
        let headings: Vec<&str> = columns.iter().map(|(heading, _)| *heading).collect();
        Self {
            columns: columns.to_vec(),
            rows: table(&headings),
        }
    }

    /// Adds a row with a cell for each column.
    pub fn add<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns.len(), "{:?}", self.columns);
        self.rows.add_row(cells);
    }

    /// Prints the rows, then the legend.
    pub fn print(&self) -> Result<(), CliError> {
        print_table(&self.rows)?;
        print_line("")?;
        let width = self.columns.iter().map(|(heading, _)| heading.chars().count()).max();
        let width = width.unwrap_or_default();
        for (heading, meaning) in &self.columns {
            print_line(format_args!("  {heading:width$}  {meaning}"))?;
        }
        Ok(())
    }
}
