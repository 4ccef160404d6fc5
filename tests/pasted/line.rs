//! A printed line, taken apart as a shell does.

/// What has to have become of the command before, for the next one to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joint {
    /// It succeeded.
    And,
    /// It ended.
    Then,
}

/// Takes a line apart that has quotes, `&&`, `;`, one group and a comment. Returns its commands, each with the joint
/// before it.
pub(crate) fn commands(line: &str) -> Vec<(Joint, Vec<String>)> {
    let (mut commands, mut words, mut joint) = (Vec::new(), Vec::new(), Joint::Then);
    let mut word: Option<String> = None;
    let mut rest = line.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\'' => {
                let quoted = rest.by_ref().take_while(|c| *c != '\'');
                word.get_or_insert_default().extend(quoted);
            }
            '"' => {
                let quoted = rest.by_ref().take_while(|c| *c != '"');
                word.get_or_insert_default().extend(quoted);
            }
            '\\' => word.get_or_insert_default().extend(rest.next()),
            '#' if word.is_none() => break,
            '(' | ')' if word.is_none() || c == ')' => {}
            c if c.is_whitespace() => words.extend(word.take()),
            ';' | '&' => {
                words.extend(word.take());
                commands.push((joint, std::mem::take(&mut words)));
                joint = if c == ';' { Joint::Then } else { Joint::And };
                rest.next_if_eq(&'&');
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    commands.push((joint, words));
    commands.retain(|(_, words)| !words.is_empty());
    commands
}

#[test]
fn a_line_is_taken_apart_as_a_shell_does() {
    let line = r"(export A=b; docker stop 'it'\''s' && volsnap list; docker start x)    # why; so";
    let expected = [
        (Joint::Then, vec!["export", "A=b"]),
        (Joint::Then, vec!["docker", "stop", "it's"]),
        (Joint::And, vec!["volsnap", "list"]),
        (Joint::Then, vec!["docker", "start", "x"]),
    ];
    let expected =
        expected.map(|(joint, words)| (joint, words.into_iter().map(str::to_owned).collect::<Vec<_>>()));
    assert_eq!(commands(line), expected);
}
