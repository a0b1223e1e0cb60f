//! Classes by their names, and what they were taken for.

use super::metrics::Confusion;
use crate::report::ClassRow;

/// A row per class in the order of the labels. `names`: of all classes, or empty, which leaves them numbered.
pub fn class_rows(confusion: &Confusion, names: &[String]) -> Vec<ClassRow> {
    let name = |class: usize| names.get(class).cloned().unwrap_or_else(|| class.to_string());
    let row = |count: super::metrics::ClassCount| ClassRow {
        class: count.class,
        name: names.get(count.class).cloned().unwrap_or_default(),
        clips: count.clips,
        right: count.right,
        confused_with: count.confused_with.map(|(class, times)| (name(class), times)),
    };
    confusion.per_class().into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_carry_names_or_numbers() {
        let confusion = Confusion { classes: 3, counts: vec![2, 1, 0, 0, 0, 4, 0, 0, 0] };
        let names = ["a", "b", "c"].map(str::to_owned);
        let rows = class_rows(&confusion, &names);
        let brief = |row: &ClassRow| (row.class, row.name.clone(), row.clips, row.right, row.confused_with.clone());
        assert_eq!(brief(&rows[0]), (0, "a".into(), 3, 2, Some(("b".into(), 1))));
        assert_eq!(brief(&rows[1]), (1, "b".into(), 4, 0, Some(("c".into(), 4))));
        assert_eq!(brief(&rows[2]), (2, "c".into(), 0, 0, None));
        let numbered = class_rows(&confusion, &[]);
        assert_eq!(brief(&numbered[1]), (1, String::new(), 4, 0, Some(("2".into(), 4))));
    }
}
