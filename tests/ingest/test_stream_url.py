import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmb.errors import SettingsError
from fedmb.ingest.file_log import FileLog, FsyncPolicy
from fedmb.ingest.stream_url import StreamUrl, open_log

PATHS = st.text("ab/. ?#%&=+:;@ü\U0001f600", min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file:///abs/dir?topic=digits&partition=0", StreamUrl("file", "/abs/dir", "digits", (0,))),
        ("file:/abs/dir?topic=digits", StreamUrl("file", "/abs/dir", "digits", (0,))),
        ("file://localhost/abs?topic=digits", StreamUrl("file", "/abs", "digits", (0,))),
        ("file:relative/dir?topic=digits&partitions=1,0", StreamUrl("file", "relative/dir", "digits", (0, 1))),
        ("file:with%20space%3F?topic=a.b_c-d&partition=12", StreamUrl("file", "with space?", "a.b_c-d", (12,))),
        ("FILE:x?topic=digits", StreamUrl("file", "x", "digits", (0,))),
        ("memory:name?topic=digits", StreamUrl("memory", "name", "digits", (0,))),
    ],
)
def test_parts_are_read(text, expected):
    assert StreamUrl.parse(text) == expected


@given(
    st.sampled_from(["file", "memory"]),
    PATHS.filter(lambda path: not path.startswith("//")),
    st.from_regex(r"[a-zA-Z0-9_-]{1,20}", fullmatch=True),
    st.sets(st.integers(0, 99), min_size=1, max_size=5).map(lambda numbers: tuple(sorted(numbers))),
)
def test_a_url_reads_back_what_it_shows(scheme, path, topic, partitions):
    url = StreamUrl(scheme, path, topic, partitions)

    assert StreamUrl.parse(str(url)) == url


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kafka://broker:9092/digits", "must be file: or memory:, got kafka:"),
        ("flie:dir?topic=digits", "did you mean file:"),
        ("memroy:x?topic=digits", "did you mean memory:"),
        ("http://host/x?topic=digits", "got http:"),
        ("dir?topic=digits", "got no scheme"),
        ("", "got no scheme"),
        ("file:dir", "must name its topic"),
        ("file:?topic=digits", "must name a directory"),
        ("memory:?topic=digits", "must name a log"),
        ("file://host/dir?topic=digits", "no host, got 'host'"),
        ("file:dir?topic=digits#x", "no fragment"),
        ("file:dir?topic=a%2Fb", "topic's name"),
        ("file:dir?topic=", "topic's name"),
        ("file:dir?topic=digits&partition=-1", "whole numbers"),
        ("file:dir?topic=digits&partition=", "whole numbers"),
        ("file:dir?topic=digits&partitions=0,,1", "whole numbers"),
        ("file:dir?topic=digits&partitions=1,1", "none twice"),
        ("file:dir?topic=digits&partition=0&partition=1", "given once"),
        ("file:dir?topic=digits&partition=0&partitions=1", "given once"),
        ("file:dir?topic=digits&partion=0", "did you mean partition"),
        ("file:dir?topic", "URL"),
        ("file://[x/dir?topic=digits", "URL"),
    ],
)
def test_an_error_says_what_is_wrong_and_how_to_write_it(text, said):
    with pytest.raises(SettingsError) as caught:
        StreamUrl.parse(text)
    assert said in str(caught.value)


def test_a_file_log_is_opened_and_made(tmp_path):
    log = open_log(f"file://{tmp_path}/log?topic=digits")

    assert isinstance(log, FileLog)
    assert log.id == FileLog.open(tmp_path / "log", fsync=FsyncPolicy.never(), create=False).id
    with pytest.raises(SettingsError, match="create"):
        open_log(f"file://{tmp_path}/other?topic=digits", create=False)


def test_a_memory_log_is_one_for_its_name():
    one = open_log("memory:shared?topic=digits")

    assert open_log(StreamUrl("memory", "shared", "others")) is one
    assert open_log("memory:another?topic=digits") is not one
    assert one.id == "shared"
