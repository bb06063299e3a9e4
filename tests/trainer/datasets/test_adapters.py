"""Each adapter on tiny files of its source's official form."""

from __future__ import annotations

import gzip
import inspect
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from contracts.errors import BadInput
from trainer.datasets import ADAPTERS, Dataset
from trainer.datasets.check import check

HOSTILE = "ü\u202e'\"🦊"
LOG_COLUMNS = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")


def imported(name: str, source: Path, to: Path) -> tuple[Dataset, list[str]]:
    notes = ADAPTERS[name](source, to)
    report = check(to)
    assert report.ok, str(report)
    assert {one.name for one in to.iterdir()} <= {
        *("dataset.yaml", "events", "users.parquet", "ads.parquet", "ad_domains.parquet", "candidates")
    }
    return Dataset.open(to), notes


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_an_adapter_says_what_it_expects_and_names_what_is_missing(tmp_path: Path, name: str) -> None:
    assert ".csv" in (inspect.getdoc(ADAPTERS[name]) or "") or ".tsv" in (inspect.getdoc(ADAPTERS[name]) or "")
    (tmp_path / "empty").mkdir()
    for source in ("empty", "nowhere"):
        with pytest.raises(BadInput) as error:
            ADAPTERS[name](tmp_path / source, tmp_path / "out")
        assert source in error.value.message and error.value.hint
    assert not (tmp_path / "out").exists()


# --- KuaiRand


def log_row(user: int, video: int, date: int, minute: int, click: int, tab: int, like: int = 0, long_view: int = 0) -> str:
    day = datetime.strptime(str(date), "%Y%m%d").replace(tzinfo=UTC)
    time_ms = int(day.timestamp() * 1000) - 8 * 3_600_000 + minute * 60_000  # Beijing
    return f"{user},{video},{date},{minute // 60 * 100},{time_ms},{click},{like},0,0,0,0,{long_view},0,9000,0,0,0,0,{tab}"


def kuairand_source(path: Path, ending: str, logs: dict[str, list[str]]) -> Path:
    user_columns = (
        "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,follow_user_num_range,"
        "fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,register_days,register_days_range,"
    ) + ",".join(f"onehot_feat{number}" for number in range(18))
    onehot = "1,2,3,4,5.0,6,7,8,9,10,11,12,0.0,,1.0,0.0,0.0,0.0"
    users = [f'{user},full_active,0,1,0,514,500+,150,"[100,1k)",34,"[30,60)",799,730+,{onehot}' for user in (1, 2)]
    videos = ["7,70,NORMAL,2022-04-10,Web,0.0,87433.0,720.0,1280.0,9155697141,9.0,39", "8,80,AD,,Kmovie,0.0,,720.0,1280.0,1,,"]
    video_columns = (
        "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,music_id"
    )
    put(path / f"user_features_{ending}.csv", "\n".join([user_columns, *users]))
    put(path / f"video_features_basic_{ending}.csv.gz", "\n".join([video_columns + ",music_type,tag", *videos]))
    for name, rows in logs.items():
        put(path / name, "\n".join([LOG_COLUMNS, *rows]))
    return path


EARLY = [
    log_row(1, 7, 20220408, 60, 0, 1),
    log_row(1, 8, 20220421, 61, 1, 1, like=1, long_view=1),
    log_row(2, 8, 20220420, 5, 1, 0),
]
LATE = [
    log_row(1, 9, 20220423, 0, 1, 1),
    log_row(1, 7, 20220425, 725, 1, 1),
    log_row(1, 7, 20220425, 725, 1, 1),
    log_row(3, 7, 20220508, 1439, 0, 14),
]


@pytest.mark.parametrize("ending", ["pure", "1k"])
def test_kuairand_official_files(tmp_path: Path, ending: str) -> None:
    logs = {
        f"log_standard_4_08_to_4_21_{ending}.csv": EARLY,
        f"log_standard_4_22_to_5_08_{ending}.csv": LATE,
        f"log_random_4_22_to_5_08_{ending}.csv": [log_row(1, 7, 20220430, 1, 1, 6)],
    }
    dataset, notes = imported("kuairand", kuairand_source(tmp_path / "in", ending, logs), tmp_path / "out")
    events = dataset.scan_events().sort("timestamp").collect()
    assert notes == [
        "3 log rows read, 1 exact duplicates dropped, 2 events written",
        "4 rows before 20220425 became history, not events",
    ]
    assert events["domain"].to_list() == ["1", "14"]
    assert events["hour"].to_list() == ["12", "23"]
    assert events["timestamp"][0] == datetime(2022, 4, 25, 4, 5, tzinfo=UTC)
    assert dataset.cutoff() == datetime(2022, 5, 7, 16, tzinfo=UTC)  # midnight in Beijing
    users = dataset.users()
    assert users is not None
    history = {row["user_id"]: row for row in users.collect().to_dicts()}
    assert history["1"]["watch_seq"] == ["7", "8", "9"]
    assert history["1"]["like_seq"] == history["1"]["long_watch_seq"] == ["8"]
    assert history["2"]["watch_seq"] == ["8"]
    assert history["1"]["onehot_feat4"] == "5" and history["1"]["onehot_feat13"] is None


def test_kuairand_with_given_sequences(tmp_path: Path) -> None:
    source = kuairand_source(tmp_path / "in", "pure", {})
    log = pl.read_csv(("\n".join([LOG_COLUMNS, *LATE[1:]])).encode())
    log.write_parquet(source / "log_standard_4_25_to_5_04.parquet")
    sequences = {"user_id": [1], "history_len": [3], "watch_seq": [[8, 7, 7]], "like_seq": [[]], "long_watch_seq": [[7]]}
    pl.DataFrame(sequences, schema_overrides={"like_seq": pl.List(pl.Int64)}).write_parquet(source / "user_sequences.parquet")
    dataset, notes = imported("kuairand", source, tmp_path / "out")
    users = dataset.users()
    assert users is not None
    assert users.filter(pl.col("user_id") == "1").collect()["watch_seq"].to_list() == [["8", "7", "7"]]
    assert notes == ["3 log rows read, 1 exact duplicates dropped, 2 events written"]


def test_kuairand_never_describes_an_impression_by_its_outcome(tmp_path: Path) -> None:
    source = kuairand_source(tmp_path / "in", "pure", {"log_standard_4_22_to_5_08_pure.csv": LATE})
    dataset, _ = imported("kuairand", source, tmp_path / "out")
    outcomes = {*LOG_COLUMNS.split(",")} - {"user_id", "video_id", "tab", "time_ms", "is_click"}
    assert not outcomes & {one.name for one in dataset.spec.features}
    written = pl.read_parquet_schema(dataset.events_files()[0])
    assert not outcomes & set(written)


def test_kuairand_by_segments_of_users(tmp_path: Path) -> None:
    """User 3 is not among the users: the segment of the unknown."""
    source = kuairand_source(tmp_path / "in", "pure", {"log_standard_4_22_to_5_08_pure.csv": LATE})
    ADAPTERS["kuairand"](source, tmp_path / "out", domain_by="user_active_degree")
    events = Dataset.open(tmp_path / "out").scan_events().sort("timestamp").collect()
    assert events.select("user_id", "domain").rows() == [("1", "1|full_active"), ("3", "14|")]
    with pytest.raises(BadInput, match="no segments by 'tab'"):
        ADAPTERS["kuairand"](source, tmp_path / "other", domain_by="tab")


def test_the_same_log_twice_is_refused(tmp_path: Path) -> None:
    logs = {"log_standard_4_22_to_5_08_pure.csv": LATE, "log_standard_4_22_to_5_08_pure.csv.gz": LATE}
    with pytest.raises(BadInput, match="holds the same table twice"):
        ADAPTERS["kuairand"](kuairand_source(tmp_path / "in", "pure", logs), tmp_path / "out")


# --- XMRec

HEADER = "userId\titemId\trating\n"


def xmrec_source(path: Path) -> Path:
    many = "".join(f"s1U{user}\tP{item}\t1.0\n" for user in range(3) for item in range(user, 150, 3))
    put(path / "s1" / "train_5core.tsv.gz", HEADER + many + f"s1U0\tP0\t1.0\n{HOSTILE}\tP1\t1.0\n")
    put(path / "s1" / "train.tsv", HEADER + "never\tread\t5.0\n")
    put(path / "s1" / "valid_qrel.tsv.gz", HEADER + f"s1U0\tP1\t1\n{HOSTILE}\tP999\t1\n")
    put(path / "t1" / "train.tsv", HEADER + "t1U0\tP1\t4.0\n")
    put(path / "t1" / "valid_qrel.tsv", HEADER + "t1U0\tP2\t1\n")
    put(path / "t1" / "valid_run.tsv", "t1U0\t" + ",".join(f"P{item}" for item in range(2, 102)) + "\n")
    put(path / "t1" / "test_qrel.tsv", HEADER + "t1U0\tP500\t1\n")
    put(path / "t1" / "test_run.tsv", "t1U0\tP500,P501\n")
    return path


def test_xmrec(tmp_path: Path) -> None:
    dataset, notes = imported("xmrec", xmrec_source(tmp_path / "in"), tmp_path / "out")
    assert notes == [
        "s1: 151 train (1 repeats dropped), 2 valid, 151 items",
        "t1: 1 train (0 repeats dropped), 1 valid, 1 test, 103 items",
    ]
    train, valid, test = (part.collect() for part in dataset.split_scans())
    assert (train.height, valid.height, test.height) == (152, 3, 1)
    assert train["label"].unique().to_list() == [1.0]
    assert dataset.domains() == ["s1", "t1"]
    corpus = dataset.ad_domains()
    assert corpus is not None
    assert set(corpus.filter(pl.col("domain") == "s1").collect()["ad_id"]) == {f"P{item}" for item in range(150)} | {"P999"}
    assert corpus.collect()["active"].all()


def test_xmrec_candidates(tmp_path: Path) -> None:
    dataset, _ = imported("xmrec", xmrec_source(tmp_path / "in"), tmp_path / "out")
    lists = dataset.candidates("valid")
    assert lists is not None
    by_user = {row["user_id"]: row["ad_ids"] for row in lists.collect().to_dicts()}
    bought = {f"P{item}" for item in range(0, 150, 3)}
    assert "P1" in by_user["s1U0"] and len(by_user["s1U0"]) == 100 == len(set(by_user["s1U0"]))
    assert not set(by_user["s1U0"]) & bought
    assert "P999" in by_user[HOSTILE] and len(by_user[HOSTILE]) == 100
    official = [f"P{item}" for item in range(2, 102)]
    assert sorted(by_user["t1U0"]) == sorted(official) and by_user["t1U0"] != official  # shuffled
    assert ADAPTERS["xmrec"](tmp_path / "in", tmp_path / "again")
    assert Dataset.open(tmp_path / "again").digest() == dataset.digest()


# --- EDDA


def test_edda(tmp_path: Path) -> None:
    put(tmp_path / "in" / "d0_train.csv.gz", f"1,10,1\n{HOSTILE},11,1\n2,12,0\n".replace('"', ""))
    put(tmp_path / "in" / "d0_val.csv.gz", "1,13,1\n")
    put(tmp_path / "in" / "d10_train.csv", "1,10,1\n")
    put(tmp_path / "in" / "d0_test.csv", "2,10,1\n")
    dataset, notes = imported("edda_aliccp", tmp_path / "in", tmp_path / "out")
    assert [part.collect().height for part in dataset.split_scans()] == [3, 1, 1]
    assert notes == ["train: 3 clicks in d0, d10", "valid: 1 clicks in d0", "test: 1 clicks in d0"]
    put(tmp_path / "in" / "copy" / "d0_val.csv", "1,13,1\n")
    with pytest.raises(BadInput, match=r"both .*d0_val.* are there"):
        ADAPTERS["edda_aliad"](tmp_path / "in", tmp_path / "out")


# --- Ali-CCP


def features(*pairs: tuple[str, str]) -> str:
    return "\x01".join(f"{field}\x02{value}\x030.69315" for field, value in pairs)


def test_aliccp_official_files(tmp_path: Path) -> None:
    user = (
        ("1121", "decoy"),
        ("121", "38"),
        ("122", "7"),
        ("109_14", "c1"),
        ("109_14", "c2"),
        ("1109_14", "decoy"),
        ("150_14", "n1"),
    )
    put(
        tmp_path / "in" / "common_features_train.csv",
        f"h1,7,{features(('101', 'alice'), *user)}\nh2,2,{features(('101', 'alice'), ('121', '99'))}\n"
        f"h3,1,{features(('101', HOSTILE))}\n",
    )
    put(
        tmp_path / "in" / "common_features_test.csv.gz",
        f"h4,2,{features(('101', 'alice'), ('121', '98'))}\nh5,1,{features(('101', 'new'))}\n",
    )
    ad = (("9205", "decoy"), ("205", "i1"), ("206", "c1"), ("207", "s1"), ("210", "n1"), ("210", "n2"), ("216", "b1"))
    put(
        tmp_path / "in" / "sample_skeleton_train.csv",
        f"1,0,0,h1,8,{features(*ad, ('508', 'x'), ('301', '9351665'))}\n"
        f"2,1,0,h2,8,{features(('205', 'i2'), ('853', 'y'), ('301', '9351666'))}\n"
        f"3,1,1,h3,8,{features(('205', 'i1'), ('301', '9351665'))}\n",
    )
    put(
        tmp_path / "in" / "sample_skeleton_test.csv.gz",
        f"1,0,0,h4,2,{features(('205', 'i1'), ('301', '9351665'))}\n2,1,0,h5,2,{features(('205', 'i3'), ('301', '9351665'))}\n",
    )
    dataset, notes = imported("aliccp", tmp_path / "in", tmp_path / "out")
    assert notes[0] == "train: 3 impressions, 2 clicks, 0 without a common-feature line"
    train, valid, test = (part.collect() for part in dataset.split_scans())
    assert train.height + valid.height == 3 and test["user_id"].to_list() == ["alice", "new"]
    events = dataset.scan_events().filter(pl.col("split") == "train").collect()
    assert events["user_id"].to_list() == ["alice", "alice", HOSTILE]
    assert events["domain"].to_list() == ["9351665", "9351666", "9351665"]
    assert events["508"].to_list() == ["x", None, None] and events["853"].to_list() == [None, "y", None]
    users, ads = dataset.users(), dataset.ads()
    assert users is not None and ads is not None
    by_user = {row["user_id"]: row for row in users.collect().to_dicts()}
    assert by_user["alice"]["121"] == "38"  # her first line, not a later one
    assert by_user["alice"]["109_14"] == ["c1", "c2"] and by_user["alice"]["150_14"] == ["n1"]
    assert set(by_user) == {"alice", HOSTILE, "new"}
    assert ads.collect().to_dicts()[0] == {"ad_id": "i1", "206": "c1", "207": "s1", "210": "n1", "216": "b1"}


# --- Open Bandit


def bandit(path: Path, policy: str, campaign: str, rows: list[str], items: int, salt: str) -> None:
    affinity = ",".join(f"user-item_affinity_{item}" for item in range(items))
    head = (
        ",timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,user_feature_2,user_feature_3,"
        + affinity
    )
    put(path / policy / campaign / f"{campaign}.csv.gz", "\n".join([head, *rows]))
    lines = [f"{item},{item},-0.{item},{salt}1,{salt}2,{salt}3" for item in range(items)]
    context = ",item_id,item_feature_0,item_feature_1,item_feature_2,item_feature_3"
    put(path / policy / campaign / "item_context.csv", "\n".join([context, *lines]))


def test_open_bandit(tmp_path: Path) -> None:
    source = tmp_path / "in"
    bandit(source, "random", "men", ["0,2019-11-24 15:00:03.979311+00:00,1,3,0,0.5,a,b,c,d,0.0,2.0"], 2, "r")
    bandit(source, "bts", "men", ["0,2019-11-25 00:01:03+00:00,0,1,1,0.25,a,b,c,e,1.0,0.0"], 2, "b")
    bandit(source, "bts", "all", ["0,2019-11-26 00:01:03+00:00,2,1,0,0.125,a,b,c,d,0.0,0.0,4.0"], 3, "b")
    dataset, notes = imported("open_bandit", source, tmp_path / "out")
    events = dataset.scan_events(["policy", "propensity_score"]).sort("timestamp").collect()
    assert events["domain"].to_list() == ["men-3", "men-1", "all-1"]
    assert events["ad_id"].to_list() == ["men-1", "men-0", "all-2"]
    assert events["user_id"].to_list() == ["a-b-c-d", "a-b-c-e", "a-b-c-d"]
    assert events["policy"].to_list() == ["random", "bts", "bts"]
    assert events["propensity_score"].to_list() == [0.5, 0.25, 0.125]
    assert events["hour"].to_list() == ["0", "9", "9"]  # in Tokyo
    assert events["affinity_2"].to_list() == [None, None, 4.0]
    assert events["timestamp"][0] == datetime(2019, 11, 24, 15, 0, 3, 979311, tzinfo=UTC)
    ads = dataset.ads()
    assert ads is not None
    colours = {row["ad_id"]: row["item_feature_1"] for row in ads.collect().to_dicts()}
    assert colours == {"men-0": "r1", "men-1": "r1", "all-0": "b1", "all-1": "b1", "all-2": "b1"}
    assert notes[0] == "random/men: 1 impressions, 0 clicks"
