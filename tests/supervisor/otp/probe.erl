%% Runs the scenarios of scenarios.yaml (as Erlang terms, in the file it is given) on OTP's own supervisor and prints
%% what happened, as JSON. One scheduler (+S 1), so that the order of what is logged is the order in which it happened.
-module(probe).
-behaviour(supervisor).
-export([main/1, init/1, start_child/1, start_child/2, start_supervisor/2]).

main([File]) ->
    logger:set_primary_config(level, none),
    {ok, [Scenarios]} = file:consult(File),
    Played = [[{name, maps:get(name, Scenario)}, {log, play(Scenario)}] || Scenario <- Scenarios],
    Out = [{erts, list_to_atom(erlang:system_info(version))},
           {otp, list_to_atom(erlang:system_info(otp_release))},
           {transcripts, {list, Played}}],
    io:put_chars([json(Out), "\n"]),
    halt(0).

play(Scenario) ->
    Driver = self(),
    {_, Player} = spawn_monitor(fun() -> Driver ! {played, run(Scenario)} end),
    receive
        {played, Log} -> receive {'DOWN', Player, _, _, _} -> Log end;
        {'DOWN', Player, _, _, Reason} -> error({maps:get(name, Scenario), Reason})
    end.

run(Scenario) ->
    process_flag(trap_exit, true),
    Keeper = spawn_link(fun() -> keep([], #{}, #{}, #{}) end),
    register(keeper, Keeper),
    Running =
        case supervisor:start_link(?MODULE, {top, Scenario}) of
            {ok, Pid} -> tell({note, [up]}), Pid;
            {error, Reason} -> tell({note, [not_started | failed(Reason)]}), none
        end,
    settle(Running),
    lists:foreach(fun(Step) -> step(Running, Scenario, Step), settle(Running) end, maps:get(steps, Scenario)),
    Log = tell(log),
    stop(Running),
    unlink(Keeper),
    unregister(keeper),
    exit(Keeper, kill),
    Log.

stop(none) -> ok;
stop(Supervisor) ->
    Watch = monitor(process, Supervisor),
    exit(Supervisor, shutdown),
    receive {'DOWN', Watch, _, _, _} -> ok end.

%% --- what the driver does ---------------------------------------------------------------------------------------

step(Supervisor, Scenario, {together, Steps}) ->
    erlang:suspend_process(Supervisor),
    Waiting = [begin_step(Supervisor, Scenario, Step) || Step <- Steps],
    erlang:resume_process(Supervisor),
    Answers = [receive {Tag, Entry} -> Entry end || Tag <- Waiting, Tag =/= none],
    %% What the supervisor does next it does while the answers travel: they are noted after that.
    settle(Supervisor),
    [tell({note, Entry}) || Entry <- Answers];
step(_, _, [wait, Milliseconds]) ->
    timer:sleep(Milliseconds);
step(Supervisor, Scenario, Step) ->
    case begin_step(Supervisor, Scenario, Step) of
        none -> ok;
        Tag -> receive {Tag, Entry} -> tell({note, Entry}) end
    end.

begin_step(_, _, [exit, Id, Reason]) ->
    Pid = tell({pid, Id}),
    Watch = monitor(process, Pid),
    case Reason of
        killed -> exit(Pid, kill);
        detail -> Pid ! {exit, {shutdown, detail}};
        _ -> Pid ! {exit, Reason}
    end,
    receive {'DOWN', Watch, _, _, _} -> none end;
begin_step(_, _, [plan, Id | Outcomes]) -> tell({plan, Id, Outcomes}), none;
begin_step(Supervisor, _, [stop]) -> exit(Supervisor, shutdown), none;
begin_step(Supervisor, Scenario, Call) ->
    Driver = self(), Tag = make_ref(),
    spawn(fun() -> Driver ! {Tag, called(Supervisor, Scenario, Call)} end),
    timer:sleep(2),
    Tag.

called(Supervisor, Scenario, Call) ->
    try call(Supervisor, Scenario, Call) catch exit:_ -> [name(Call), unavailable] end.

call(Supervisor, _, [which]) ->
    Rows = [{tell({name, Id, Child}), state(Child)} || {Id, Child, _, _} <- supervisor:which_children(Supervisor)],
    [which, {list, [{list, [Id, State]} || {Id, State} <- Rows]}];
call(Supervisor, _, [count]) ->
    Counts = supervisor:count_children(Supervisor),
    [count | [proplists:get_value(Key, Counts) || Key <- [specs, active, supervisors, workers]]];
call(Supervisor, #{dynamic := _}, [add, Child, top]) ->
    [add, reply(supervisor:start_child(Supervisor, [Child]))];
call(Supervisor, _, [add, Child, top]) -> [add, reply(supervisor:start_child(Supervisor, spec(Child)))];
call(_, Scenario, [add, Child, Id]) -> call(tell({pid, Id}), Scenario, [add, Child, top]);
call(Supervisor, #{dynamic := _}, [terminate, Id]) ->
    [terminate, reply(supervisor:terminate_child(Supervisor, tell({pid, Id})))];
call(Supervisor, _, [terminate, Id]) -> [terminate, reply(supervisor:terminate_child(Supervisor, Id))];
call(Supervisor, _, [restart, Id]) -> [restart, reply(supervisor:restart_child(Supervisor, Id))];
call(Supervisor, _, [delete, Id]) -> [delete, reply(supervisor:delete_child(Supervisor, Id))].

name([Name | _]) -> Name.

state(Child) when is_pid(Child) -> running;
state(undefined) -> stopped;
state(restarting) -> restarting.

reply(ok) -> ok;
reply({ok, undefined}) -> ignored;
reply({ok, _}) -> ok;
reply({error, {already_started, _}}) -> already_started;
reply({error, boom}) -> failed;
reply({error, Known}) when is_atom(Known) -> Known;
reply({error, _}) -> failed.

%% Until nothing is logged any more and the supervisor, if it is there, answers.
settle(Supervisor) -> settle(Supervisor, none).

settle(Supervisor, Before) ->
    timer:sleep(6),
    is_pid(Supervisor) andalso (catch supervisor:count_children(Supervisor)),
    receive {'EXIT', Supervisor, Reason} -> tell({note, ['end', reason(Reason)]}) after 0 -> ok end,
    case tell(length) of
        Before -> ok;
        Now -> settle(Supervisor, Now)
    end.

failed({shutdown, {failed_to_start_child, Id, Reason}}) -> [Id | failed(Reason)];
failed(_) -> [].

%% --- supervisors and children -----------------------------------------------------------------------------------

init({Id, Spec}) ->
    Id =:= top orelse tell({note, [init, Id]}),
    Strategy = maps:get(strategy, Spec),
    Children =
        case Spec of
            #{dynamic := Template} -> [spec(Template#{id => template})];
            #{children := Listed} -> [spec(Child) || Child <- Listed]
        end,
    Flags = #{strategy => Strategy, intensity => maps:get(intensity, Spec), period => maps:get(period, Spec),
              auto_shutdown => maps:get(auto_shutdown, Spec)},
    {ok, {Flags, Children}}.

spec(#{id := Id} = Child) ->
    Shutdown = case maps:get(shutdown, Child) of brutal -> brutal_kill; Other -> Other end,
    Common = #{id => Id, restart => maps:get(restart, Child), shutdown => Shutdown,
               significant => maps:get(significant, Child)},
    case Child of
        #{supervisor := Inner} ->
            Common#{start => {?MODULE, start_supervisor, [Id, Inner]}, type => supervisor};
        #{id := template} -> Common#{start => {?MODULE, start_child, []}};
        _ ->
            tell({plan_once, Id, maps:get(plan, Child)}),
            Common#{start => {?MODULE, start_child, [Child]}}
    end.

start_supervisor(Id, Spec) ->
    case supervisor:start_link(?MODULE, {Id, Spec}) of
        {ok, Pid} -> tell({watch, Id, Pid}), {ok, Pid};
        {error, Reason} -> tell({note, [down, Id, failed]}), {error, Reason}
    end.

start_child(_Template, Child) -> start_child(Child).

start_child(#{id := Id, plan := Plan} = Child) ->
    tell({plan_once, Id, Plan}),
    case tell({next, Id}) of
        ok ->
            Me = self(),
            Pid = spawn_link(fun() -> Stop = maps:get(stop, Child), process_flag(trap_exit, Stop =/= ok),
                                      Me ! {self(), ready}, live(Stop) end),
            receive {Pid, ready} -> ok end,
            tell({start, Id, Pid}),
            {ok, Pid};
        fail -> tell({note, [fail, Id]}), {error, boom};
        ignore -> tell({note, [ignore, Id]}), ignore
    end.

live(Stop) ->
    receive
        {exit, Reason} -> exit(Reason);
        {'EXIT', _, shutdown} when Stop =:= crash -> exit(crash);
        _ -> live(Stop)
    end.

%% --- the keeper of the log --------------------------------------------------------------------------------------

tell(What) ->
    Watch = monitor(process, keeper),
    keeper ! {self(), Watch, What},
    receive
        {Watch, Answer} -> demonitor(Watch, [flush]), Answer;
        {'DOWN', Watch, _, _, Reason} -> exit({keeper, Reason})
    end.

keep(Log, Plans, Pids, Watches) ->
    receive
        {'DOWN', Watch, _, _, Reason} ->
            keep([[down, maps:get(Watch, Watches), reason(Reason)] | Log], Plans, Pids, Watches);
        {From, Tag, What} ->
            case What of
                {note, Entry} -> From ! {Tag, ok}, keep([Entry | Log], Plans, Pids, Watches);
                {start, Id, Pid} ->
                    From ! {Tag, ok},
                    keep([[start, Id] | Log], Plans, Pids#{Id => Pid}, Watches#{monitor(process, Pid) => Id});
                {watch, Id, Pid} ->
                    From ! {Tag, ok},
                    keep(Log, Plans, Pids#{Id => Pid}, Watches#{monitor(process, Pid) => Id});
                {plan, Id, Outcomes} -> From ! {Tag, ok}, keep(Log, Plans#{Id => Outcomes}, Pids, Watches);
                {plan_once, Id, Outcomes} ->
                    From ! {Tag, ok}, keep(Log, maps:merge(#{Id => Outcomes}, Plans), Pids, Watches);
                {next, Id} ->
                    case maps:get(Id, Plans, []) of
                        [] -> From ! {Tag, ok}, keep(Log, Plans, Pids, Watches);
                        [Outcome | Rest] -> From ! {Tag, Outcome}, keep(Log, Plans#{Id => Rest}, Pids, Watches)
                    end;
                {pid, Id} -> From ! {Tag, maps:get(Id, Pids)}, keep(Log, Plans, Pids, Watches);
                {name, undefined, Pid} ->
                    Names = [Id || {Id, Known} <- maps:to_list(Pids), Known =:= Pid],
                    From ! {Tag, hd(Names ++ [unknown])}, keep(Log, Plans, Pids, Watches);
                {name, Id, _} -> From ! {Tag, Id}, keep(Log, Plans, Pids, Watches);
                length -> From ! {Tag, length(Log)}, keep(Log, Plans, Pids, Watches);
                log -> From ! {Tag, {list, [{list, Entry} || Entry <- lists:reverse(Log)]}}, keep(Log, Plans, Pids, Watches)
            end
    end.

reason({shutdown, {failed_to_start_child, _, _}}) -> failed;
reason({shutdown, _}) -> shutdown;
reason(Reason) -> Reason.

%% --- JSON -------------------------------------------------------------------------------------------------------

json({list, Items}) -> [$[, lists:join(", ", [json(Item) || Item <- Items]), $]];
json([{_, _} | _] = Pairs) -> [${, lists:join(", ", [[json(Key), ": ", json(Value)] || {Key, Value} <- Pairs]), $}];
json(Number) when is_integer(Number) -> integer_to_list(Number);
json(Word) when is_atom(Word) -> [$", unicode:characters_to_binary(atom_to_list(Word)), $"].
