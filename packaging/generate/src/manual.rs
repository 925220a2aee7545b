//! Pages of the manual.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Command;
use clap_mangen::Man;

use crate::Program;

/// The page of the program and those of its subcommands, with their paths.
pub(crate) fn pages(program: &Program) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    // A page that says how to ask for help would be one of `help` for each subcommand.
    let mut command = program.command.clone().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    add(&command, program, &mut pages)?;
    Ok(pages)
}

fn add(
    command: &Command,
    program: &Program,
    pages: &mut Vec<(PathBuf, Vec<u8>)>,
) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let section = program.section;
    let path = PathBuf::from(format!("man{section}/{name}.{section}"));
    pages.push((path, page(command, program)?));
    for subcommand in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        add(subcommand, program, pages)?;
    }
    Ok(())
}

/// The sections in the order of man-pages(7). Clap has one for the version too; that of the page's foot is enough, and the
/// long one would tell of the machine that this runs on.
fn page(command: &Command, program: &Program) -> io::Result<Vec<u8>> {
    let version = program.command.get_version().unwrap_or_default();
    let source = format!("picket {version}");
    let title = command.get_display_name().unwrap_or_else(|| command.get_name()).to_uppercase();
    let man = Man::new(command.clone())
        .title(title)
        .section(program.section)
        .source(source)
        .manual("picket");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    // Words that are stretched to fill a line hide which of their spaces are part of a command.
    writeln!(page, ".ad l")?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(&mut page)?;
    }
    if command.get_subcommands().any(|command| !command.is_hide_set()) {
        man.render_subcommands_section(&mut page)?;
    }
    if command.get_after_long_help().or_else(|| command.get_after_help()).is_some() {
        let mut notes = Vec::new();
        man.render_extra_section(&mut notes)?;
        // Clap names what stands below its options EXTRA.
        let notes = String::from_utf8_lossy(&notes).replacen(".SH EXTRA\n", ".SH NOTES\n", 1);
        page.write_all(notes.as_bytes())?;
    }
    let is_whole_program = command.get_name() == program.command.get_name();
    if is_whole_program && !program.files.is_empty() {
        writeln!(page, ".SH FILES")?;
        for (path, what) in program.files {
            writeln!(page, ".TP\n.I {path}\n{what}")?;
        }
    }
    writeln!(page, ".SH \"SEE ALSO\"\n{}", see_also(command, program))?;
    Ok(set_off(&String::from_utf8_lossy(&page)).into_bytes())
}

/// Keeps indented lines, which are examples and tables, as they are: not filled, so that their columns stay.
fn set_off(page: &str) -> String {
    let mut lines = Vec::new();
    let mut is_set_off = false;
    for line in page.lines() {
        let is_indented = line.starts_with("  ");
        match (is_set_off, is_indented) {
            (false, true) => lines.push(".nf"),
            (true, false) => lines.push(".fi"),
            (true, true) | (false, false) => {}
        }
        is_set_off = is_indented;
        lines.push(line);
    }
    lines.push("");
    lines.join("\n")
}

/// The page of the program, on the pages of its subcommands, and related ones.
fn see_also(command: &Command, program: &Program) -> String {
    let name = program.command.get_name();
    let itself = [(name, program.section)];
    let itself = itself.iter().filter(|_| command.get_name() != name);
    let pages: Vec<String> = itself
        .chain(program.related)
        .map(|(page, section)| format!(".BR {} ({section})", page.replace('-', "\\-")))
        .collect();
    pages.join(" ,\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_indented_lines_stay() {
        let page = "Examples:\n  a    one\n  bb   two\n.SH NOTES\nlast\n";
        let expected = "Examples:\n.nf\n  a    one\n  bb   two\n.fi\n.SH NOTES\nlast\n";
        assert_eq!(set_off(page), expected);
    }
}
