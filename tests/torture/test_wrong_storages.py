"""A contract that cannot fail is no contract: for each there is a storage, wrong in one way, that it must fail on."""

from __future__ import annotations

from itertools import product

import pytest

from bamboo_sessions.testing import Desk, Power, StorageContract, contracts
from tests.conformance import mutants as m
from tests.conformance import mutants_expiry as x
from tests.conformance import mutants_search as y
from tests.conformance import mutants_shortcuts as z
from tests.conformance.mutants import Around, OnDisk
from tests.conformance.mutants_expiry import expiring

pytestmark = pytest.mark.usefixtures("damage_on_purpose")

THREE = frozenset({Power.IDENTITY})
LOCKS = m.RECORDS | {Power.LOCKS}


def plain(made, powers=THREE):
    return Around(made, powers)


def records(made, powers=m.RECORDS):
    return Around(made, powers)


def committing(**other):
    return records(m.altering(**other))


STALE = records(m.wrong(read=m.always_unchanged))
RACY = records(m.ChecksThenActs)
NO_TAGS, NO_QUESTIONS = plain(m.without("tags", [])), plain(m.without("questions", []))
NO_METADATA = plain(m.without("metadata", {}))
NO_LOCK = records(m.locking(m.locks_nothing), LOCKS)

TABLE = [
    # three methods
    (plain(m.AbsenceIsAnError), "test_absence_is_none_and_not_an_error"),
    (plain(m.DeletesAnything), "test_deleting_twice"),
    (plain(m.DeletesNothing), "test_deleting_twice test_deleted_stays_deleted"),
    (plain(m.KeepsMessagesOfTheDead), "test_a_deleted_session_can_be_saved_anew"),
    (NO_TAGS, "test_a_session_comes_back_whole test_a_session_comes_back_whole_through_a_repository"),
    (plain(m.changing(m.rounded)), "test_a_session_comes_back_whole test_time_goes_forward"),
    (plain(m.EmptyIsAbsent), "test_an_empty_session_comes_back_empty"),
    (plain(m.without("message_ids", None)), "test_identity_comes_back"),
    (plain(m.without("birth", "")), "test_identity_comes_back test_deleted_and_made_anew_is_another_session"),
    (plain(m.without("revision", 0)), "test_identity_comes_back"),
    (plain(m.changing(lambda form, old: {**form, "metadata": {**(old or form)["metadata"], **form["metadata"]}})),
     "test_saving_again_replaces_the_whole"),
    (plain(m.FoldsCase), "test_every_id_names_a_session_of_its_own test_three_methods_against_a_dict"),
    (plain(m.changing(m.as_other_json_libraries_do)),
     "test_messages_come_back_as_they_were_given test_metadata_comes_back_as_it_was_given"),
    (plain(m.without("from_a_newer_version", None)), "test_unknown_fields_survive"),
    (plain(m.changing(lambda form, _: {**form, "messages": form["messages"][:1000], "message_ids": None})),
     "test_a_long_conversation"),
    (plain(m.OfOneThread), "test_threads_share_one_object"),
    (plain(m.ClosesOnce), "test_closing_twice_is_harmless"),
    (m.WritesAtClose(), "test_what_was_saved_is_there_for_the_next_object"),
    # behind the storage's back
    (plain(m.LooksLeaveTraces), "test_asking_stores_nothing"),
    (plain(m.WritesBehind), "test_what_is_acknowledged_is_stored"),
    (plain(m.DamageIsAbsence), "test_a_damaged_session_is_no_absent_one test_what_is_damaged_is_not_overwritten"),
    # claims
    (plain(m.Kept, THREE | {Power.LOCKS}), "test_every_claimed_power_is_there"),
    (plain(m.Kept, THREE | {Power.REOPEN}), "test_every_claimed_power_is_there"),
    (plain(m.Kept, THREE | {Power.PROCESSES}), "test_every_claimed_power_is_there"),
    (plain(m.without("birth", "")), "test_every_claimed_power_is_there"),
    (plain(m.Kept, frozenset()), "test_every_power_that_is_there_is_claimed"),
    (records(m.MemoryStorage, m.RECORDS - {Power.USAGE, Power.USAGE_READS}),
     "test_every_power_that_is_there_is_claimed test_without_a_usage_log_appending_is_refused"),
    (records(m.ListsAnything), "test_a_list_is_filtered_and_sorted"),
    (records(m.CountsPages), "test_pages_stay_right_while_others_write"),
    (records(m.MemoryStorage, m.RECORDS - {Power.LISTING}), "test_without_heads_listing_is_refused"),
    (records(m.locking(m.locks_nothing)), "test_without_locks_an_overtaken_edit_is_refused"),
    (records(m.wrong(heads=lambda right, self: [*right(), *right()])), "test_every_session_is_listed_once"),
    (OnDisk("AllOrNothing"), "test_a_damaged_session_hides_no_other"),
    (records(m.wrong(append_usage=lambda right, self, name, line: None)),
     "test_usage_is_appended test_usage_of_nobody_is_refused test_usage_that_is_not_one_line_of_json_is_refused"),
    (records(m.UsageTakesTheLock, LOCKS), "test_usage_waits_for_no_writer"),
    (records(m.wrong(read_usage=lambda right, self, name, birth: tuple(self._kept[name].usage) if name in self._kept else ())),
     "test_usage_is_read_back"),
    (records(m.wrong(read_usage=lambda right, self, name, birth: tuple(sorted(set(right(name, birth)))))), "test_usage_is_read_back"),
    (records(m.wrong(add_usage=lambda right, self, name, birth, lines, after: m.added_anywhere(self, name, lines))),
     "test_usage_is_added_in_one_step"),
    (records(m.wrong(add_usage=lambda right, self, name, birth, lines, after: right(name, birth, lines[:1], after))),
     "test_usage_is_added_in_one_step"),
    (records(m.wrong(add_usage=lambda right, self, *given: m.added_one_by_one(right, self, *given))),
     "test_usage_that_is_added_is_one_line_of_json_each"),
    # records
    (committing(add=lambda c: list(reversed(c.add))), "test_a_commit_is_read_back"),
    (committing(keep=lambda c: 10**6), "test_keep_and_append test_edits_and_removals_meet test_records_against_a_page"),
    (committing(head=lambda c: {key: value for key, value in c.head.items() if key != "unset"}), "test_head_changes"),
    (committing(head=lambda c: {key: value for key, value in c.head.items() if key != "in"}), "test_head_changes"),
    (records(m.expecting(m.by_birth_alone)), "test_a_commit_against_another_state_is_refused test_records_against_a_page"),
    (records(m.expecting(m.by_revision_alone)),
     "test_a_commit_against_another_state_is_refused test_a_commit_of_the_predecessor_is_refused"),
    (records(m.expecting(lambda expected, there: there)), "test_a_change_of_nothing_is_refused"),
    (committing(op=lambda c: f"{c.op} {id(c)}"), "test_a_retried_commit_is_applied_once"),
    (records(m.wrong(read=m.few_ops)), "test_the_newest_operation_ids_are_kept"),
    (STALE, "test_an_answer_leads_from_what_was_known_to_what_is test_records_against_a_page"),
    (records(m.wrong(read=m.with_gaps)), "test_an_answer_leads_from_what_was_known_to_what_is"),
    (records(m.wrong(read=m.known_by_revision)), "test_a_stamp_of_another_life_means_nothing"),
    (records(m.wrong(was_deleted=lambda right, self, name, birth: False)), "test_deletions_are_remembered_by_birth"),
    (records(m.wrong(was_deleted=lambda right, self, name, birth: (name, birth) in self._buried)),
     "test_a_birth_that_came_back_is_not_deleted"),
    (records(m.wrong(exists=lambda right, self, name: True)), "test_exists"),
    (records(m.GivesItsOwn), "test_what_is_given_out_is_the_readers_own"),
    (records(m.KeepsWhatItIsHanded), "test_what_was_handed_in_is_the_callers_own"),
    (OnDisk("CallsEverythingCurrent"), "test_a_glance_says_what_a_read_says"),
    (RACY, "test_of_commits_against_one_state_one_is_applied"),
    (records(m.ReadsInTwoSteps), "test_a_reader_sees_whole_revisions_that_never_go_back"),
    (records(m.OtherNames), "test_the_store_keeps_its_name"),
    (records(m.SharesItsName), "test_the_store_keeps_its_name"),
    (OnDisk("ForgetsTheDead"), "test_a_second_object_goes_on_where_the_first_stopped"),
    (OnDisk("SeesItsOwnOnly"), "test_two_objects_see_each_others_commits"),
    (OnDisk("HoldsLess"), "test_a_held_read_is_right_or_its_commit_is_refused"),
    # locks
    (NO_LOCK, "test_a_lock_excludes_others_elsewhere test_a_lock_excludes_each_from_all test_a_wait_for_a_lock_ends"),
    (records(m.locking(m.never_waits), LOCKS), "test_a_wait_for_a_lock_ends"),
    (records(m.locking(m.one_for_all), LOCKS), "test_a_lock_is_of_one_session"),
    (records(m.locking(m.keeps_it_after_a_failure), LOCKS), "test_a_failed_body_lets_go"),
    (records(m.locking(m.makes_a_session), LOCKS), "test_a_lock_makes_no_session"),
    (OnDisk("Marker"), "test_a_lock_does_not_outlive_its_holder"),
    # plain reads
    (m.Layers(m.WritesBelowOnly), "test_a_plain_read_is_never_behind_its_own_object"),
    (m.Layers(m.DeletesBelowOnly), "test_a_plain_read_is_never_behind_its_own_object"),
    (m.Layers(m.StampsOfItsOwn), "test_a_plain_read_has_a_stamp_to_read_on_from"),
    (m.LayersWithAGap(m.BelievesCopies), "test_a_plain_read_is_never_behind_its_own_object"),
    (m.LayersOnDisk(m.LosesTrack), "test_a_plain_read_is_never_behind_what_was_given_out"),
    # guesses
    (z.together(is_likely=z.never), "test_the_newest_of_ones_own_commits_is_likely"),
    (z.together(is_likely=z.whatever_was_its_own), "test_the_newest_of_ones_own_commits_is_likely"),
    (z.together(is_likely=z.only_its_own_kind), "test_a_guess_is_never_an_error"),
    (z.together(is_likely=z.by_equality), "test_a_guess_is_never_an_error"),
    (z.together(is_likely=z.makes_who_is_not_there), "test_a_guess_changes_nothing"),
    (z.together(is_likely=z.once), "test_a_guess_changes_nothing"),
    (z.together(is_likely=z.by_a_look), "test_a_guess_asks_nobody"),
    (z.together(commit=z.commit_as_guessed), "test_a_wrong_guess_is_refused_and_changes_nothing test_a_wrong_guess_costs_no_word"),
    (z.together(commit=z.commit_and_go_on_guessing), "test_a_wrong_guess_is_refused_and_changes_nothing"),
    (records(m.wrong(m.MemoryStorage), m.RECORDS | {Power.LIKELY_STAMPS}), "test_every_claimed_power_is_there"),
    (records(z.Unclaimed), "test_every_power_that_is_there_is_claimed"),
    # room
    (z.together(alone=z.no_room), "test_nobody_else_commits_meanwhile test_nobody_else_deletes_meanwhile"),
    (z.together(alone=z.no_room), "test_whoever_is_overtaken_again_and_again_gets_through"),
    (z.OverNobodysRoom(z.SaysItMakesRoom), "test_nobody_else_commits_meanwhile"),
    (z.together(alone=z.of_the_object, turn=z.turn_of_the_object), "test_nobody_else_commits_meanwhile"),
    (z.together(delete_record=z.delete_without_a_turn), "test_nobody_else_deletes_meanwhile"),
    (z.together(read=z.read_as_before), "test_who_is_alone_sees_the_newest_state"),
    (z.together(alone=z.kept_after_a_failure), "test_others_go_on_when_the_room_is_left"),
    (z.together(alone=z.says_nothing_of_a_failure), "test_others_go_on_when_the_room_is_left"),
    (z.together(alone=z.commits_what_was_left), "test_others_go_on_when_the_room_is_left"),
    (z.together(alone=z.takes_back_after_a_failure), "test_what_was_committed_within_stays"),
    (z.together(alone=z.of_somebody), "test_room_makes_no_session"),
    (z.together(alone=z.once_a_thread), "test_a_room_within_a_room_is_safe"),
    (z.together(turn=z.turn_beside_the_room), "test_two_who_want_each_others_sessions_do_not_wait_for_ever"),
    # time to live
    (expiring(exists=lambda right, self, name: name in self._kept), "test_an_expired_session_is_shown_nowhere"),
    (expiring(heads=x.heads_of_all), "test_an_expired_session_is_shown_nowhere"),
    (expiring(read=x.only_what_is_shown),
     "test_an_expired_session_is_shown_nowhere test_a_save_of_a_copy_renews_an_expired_session"),
    (expiring(commit=x.commit_without_a_new_time),
     "test_a_save_starts_the_time_anew test_a_save_of_a_copy_renews_an_expired_session"),
    (expiring(touch=lambda right, self, name: None),
     "test_a_touch_starts_the_time_anew test_a_save_starts_the_time_anew test_touching_nobody_is_refused"),
    (expiring(touch=x.touch_that_commits), "test_a_touch_starts_the_time_anew"),
    (expiring(touch=x.touch_for_anybody), "test_touching_nobody_is_refused"),
    (expiring(touch=x.touch_to_the_letter), "test_a_clock_that_jumps_back_ages_nothing"),
    (expiring(touch=x.touch_after_its_answer), "test_a_touch_and_a_purge_at_once"),
    (expiring(time_left=x.left_whatever_the_head), "test_what_is_pinned_or_asks_does_not_expire"),
    (expiring(time_left=lambda right, self, name: self.ttl if name in self._kept else None),
     "test_what_is_expired_is_not_edited_by_its_id test_a_fresh_session_takes_the_place_of_an_expired_one"),
    (expiring(time_left=x.left_as_once_seen), "test_a_clock_that_jumps_ahead_is_obeyed_and_forgiven"),
    (expiring(expired=lambda right, self: iter(list(self._kept)[:1])), "test_a_purge_removes_what_has_expired"),
    (expiring(purge_record=x.purge_without_a_look), "test_a_purge_looks_again"),
    (expiring(purge_record=x.purge_that_deletes), "test_a_purge_is_remembered test_a_purge_removes_what_has_expired"),
    (expiring(purge_record=x.purge_that_looks_first), "test_a_save_and_a_purge_at_once"),
    (expiring(was_expired=lambda right, self, name, birth=None: False), "test_a_purge_is_remembered"),
    (expiring(was_expired=lambda right, self, name, birth=None: (name, birth) in self._buried), "test_a_purge_is_remembered"),
    # searches
    (records(m.MemoryStorage, m.RECORDS - {Power.SEARCH}),
     "test_every_power_that_is_there_is_claimed test_without_an_index_a_search_is_refused"),
    (y.searching(y.forgets_accents), "test_words_are_found_in_titles_and_messages"),
    (y.searching(y.any_word), "test_words_are_found_in_titles_and_messages"),
    (y.searching(y.what_was_first_said), "test_a_search_follows_what_is_committed"),
    (y.searching(y.titles_that_stay), "test_a_search_follows_what_is_committed"),
    (y.searching(y.without_marks), "test_a_hit_shows_the_words"),
    (y.searching(y.pages_that_overlap), "test_a_search_comes_in_pages_and_is_filtered"),
    (y.searching(y.whatever_the_filter), "test_a_search_comes_in_pages_and_is_filtered"),
    (y.searching(y.as_a_language), "test_what_a_user_writes_is_words"),
    (y.searching(y.whole_lines), "test_instructions_and_envelopes_are_not_searched"),
    (y.searching(y.expired_or_not), "test_an_expired_session_is_not_found"),
    (y.Neighbours(), "test_no_search_sees_a_neighbour"),
    # repositories
    (STALE, "test_two_held_copies_lose_nothing test_edits_and_removals_meet test_load_merged_never_goes_back"),
    (STALE, "test_a_failed_save_is_repeated_without_harm test_what_could_not_be_saved_is_kept_and_flushed"),
    (STALE, "test_repositories_against_sets_of_words"),
    (plain(m.without("title_source", None)), "test_a_title_given_by_a_person_stays"),
    (NO_QUESTIONS, "test_a_question_stays_open_through_other_saves test_a_question_is_answered_once"),
    (NO_METADATA, "test_what_is_loaded_is_the_callers_own"),
    # races
    (RACY, "test_writers_and_an_editor_lose_nothing test_every_question_is_answered_by_one"),
    (records(m.ChecksThenBrings), "test_a_deletion_among_saves_stands"),
    (records(m.ForgetsALittle), "test_looks_never_go_back"),
]

ROWS = [(harness, name) for harness, names in TABLE for name in names.split()]


def arguments(contract):
    """Every set of arguments that a contract is run with, besides the desk."""
    marks = [mark.args for mark in getattr(contract, "pytestmark", []) if mark.name == "parametrize"]
    return [dict(zip((name for name, _ in marks), values, strict=True)) for values in product(*(v for _, v in marks))]


@pytest.mark.parametrize(("harness", "name"), ROWS, ids=[f"{n}-{name}" for n, (_, name) in enumerate(ROWS)])
def test_a_wrong_storage_is_noticed(tmp_path, harness, name):
    """By the contract that speaks of what is wrong with it, for at least one set of its arguments."""
    contract, noticed = vars(contracts()[name])[name], []
    for number, given in enumerate(arguments(contract)):
        place = tmp_path / f"store-{number}"
        place.mkdir()
        try:
            with Desk(harness, place) as desk:
                contract(StorageContract(), desk, **given)
        except (Exception, pytest.fail.Exception) as error:
            noticed.append(error)
    assert noticed, f"{name} holds for a storage that is wrong"


def test_every_contract_has_a_storage_that_it_must_fail_on():
    """A new contract needs a line in the table."""
    assert sorted(set(contracts()) - {name for _, name in ROWS}) == []


@pytest.mark.parametrize("name", ["test_absence_is_none_and_not_an_error", "test_a_long_conversation"])
def test_the_right_storage_that_the_wrong_ones_are_made_from_passes(tmp_path, name):
    """Else the table would prove nothing: most of the suite, run as a user runs it, is in the other files."""
    with Desk(plain(m.Kept), tmp_path) as desk:
        vars(contracts()[name])[name](StorageContract(), desk)


@pytest.mark.parametrize("name", [name for name, owner in contracts().items() if owner.__name__ in ("GuessContract", "RoomContract")])
def test_the_right_storage_with_shortcuts_passes(tmp_path, name):
    """The one that those who guess and make room in a wrong way are made from."""
    contract = vars(contracts()[name])[name]
    for number, given in enumerate(arguments(contract)):
        with Desk(z.Company(), tmp_path / str(number)) as desk:
            contract(StorageContract(), desk, **given)
