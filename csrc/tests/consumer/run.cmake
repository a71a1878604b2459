# Installs the build in BUILD to a fresh prefix below WORK, then configures, builds and runs the program beside this file against it.
file(REMOVE_RECURSE ${WORK})
foreach(command IN ITEMS
    "--install|${BUILD}|--prefix|${WORK}/prefix"
    "-S|${CMAKE_CURRENT_LIST_DIR}|-B|${WORK}/build|-DCMAKE_PREFIX_PATH=${WORK}/prefix|-DVERSION=${VERSION}|-DCMAKE_CXX_FLAGS=${FLAGS}"
    "--build|${WORK}/build")
  string(REPLACE "|" ";" command "${command}")
  execute_process(COMMAND ${CMAKE_COMMAND} ${command} COMMAND_ERROR_IS_FATAL ANY)
endforeach()
execute_process(COMMAND ${WORK}/build/consumer COMMAND_ERROR_IS_FATAL ANY)
