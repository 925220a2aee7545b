//! Tables without an end: how much of one a terminal shows, and when its header comes again.

/// The room that a terminal gives to one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// Characters in a line.
    pub(crate) width: usize,
    /// Rows that stand below one header.
    pub(crate) rows: usize,
}

/// Says when the header is due: before the first row, and once in every screenful.
#[derive(Debug)]
pub(crate) struct Header {
    page_rows: Option<usize>,
    // Until it is due again; counts only when `page_rows` is set.
    rows_left: usize,
    due: bool,
}

impl Header {
    /// Without `page_rows` it comes once.
    pub(crate) const fn new(page_rows: Option<usize>) -> Self {
        Self { page_rows, rows_left: 0, due: true }
    }

    /// Makes it due before the next row.
    pub(crate) const fn again(&mut self) {
        self.due = true;
    }

    /// Whether it goes before the row that comes now. To be asked once per row.
    pub(crate) fn precedes_row(&mut self) -> bool {
        let due = self.due || (self.page_rows.is_some() && self.rows_left == 0);
        self.rows_left = match (due, self.page_rows) {
            (true, Some(page_rows)) => page_rows.saturating_sub(1),
            _ => self.rows_left.saturating_sub(1),
        };
        self.due = false;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(page_rows: Option<usize>, expected: [bool; 5]) {
        let mut header = Header::new(page_rows);
        assert_eq!([(); 5].map(|()| header.precedes_row()), expected);
    }

    #[test]
    fn it_comes_with_each_page() {
        check(None, [true, false, false, false, false]);
        check(Some(2), [true, false, true, false, true]);
        check(Some(1), [true; 5]);
        check(Some(0), [true; 5]);
    }

    #[test]
    fn it_comes_when_asked_for() {
        let mut header = Header::new(Some(3));
        assert!(header.precedes_row());
        header.again();
        assert!(header.precedes_row());
        assert!(!header.precedes_row());
        assert!(!header.precedes_row());
        assert!(header.precedes_row());
    }
}
