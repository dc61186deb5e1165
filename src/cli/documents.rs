//! JSON that is told piece by piece: as one array, or a document a line.

use std::io::{BufWriter, Result, Stdout, Write};

use super::arguments::Output;

/// Documents on standard output. An array is closed however its end comes: by Ctrl-C, or since the agent has gone.
pub(super) struct Documents {
    out: BufWriter<Stdout>,
    /// What stands before the next document of an array.
    before: Option<&'static str>,
}

impl Documents {
    pub(super) fn new(output: Output) -> Self {
        let before = (output == Output::Json).then_some("[");
        Self { out: BufWriter::new(std::io::stdout()), before }
    }

    /// One more.
    pub(super) fn put(&mut self, document: &[u8]) -> Result<()> {
        match &mut self.before {
            Some(before) => {
                self.out.write_all(std::mem::replace(before, ",\n").as_bytes())?;
                self.out.write_all(document)
            }
            None => {
                self.out.write_all(document)?;
                self.out.write_all(b"\n")
            }
        }
    }

    /// Whoever reads gets all that is told so far.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.out.flush()
    }

    /// No more come.
    pub(super) fn end(&mut self) -> Result<()> {
        match self.before.take() {
            Some("[") => self.out.write_all(b"[]\n")?,
            Some(_) => self.out.write_all(b"]\n")?,
            None => {}
        }
        self.flush()
    }
}

impl Drop for Documents {
    fn drop(&mut self) {
        // Whoever could have said so has ended already.
        let _ = self.end();
    }
}
