from fedmb.federation.node_note import FILE, forget_node, note_node, noted_node


def test_the_last_node_that_was_noted_is_known_until_it_is_forgotten(tmp_path):
    before = noted_node(tmp_path)
    note_node(tmp_path, 7)
    note_node(tmp_path, 2**63 + 5)
    noted = noted_node(tmp_path)
    forget_node(tmp_path)
    forget_node(tmp_path)

    assert (before, noted, noted_node(tmp_path)) == (None, 2**63 + 5, None)


def test_a_damaged_note_is_none(tmp_path):
    (tmp_path / FILE).write_text("seven")

    assert noted_node(tmp_path) is None
